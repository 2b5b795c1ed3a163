"""Every kernel equals dequantize-and-multiply, whatever the shape, the group, the format and the number of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from services.worker.engine.models.quantized_linear import QuantizedLinear
from services.worker.engine.models.quantized_native import (
    IntegerLinear,
    TableLinear,
    can_look_up,
    can_multiply_integers,
)
from services.worker.engine.models.quantized_reference import round_activations
from services.worker.engine.native.quantized_library import QuantizedKernels, load_quantized_kernels
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from tests.quantized_matrices import quantized_matrix, six_bit_matrix, some_inputs

FORMATS = ["int2", "int4", "int8"]


def kernels() -> QuantizedKernels:
    found = load_quantized_kernels()
    if found is None:
        pytest.skip("no C compiler")
    return found


def exact(inputs: torch.Tensor, weight: QuantizedTensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The definition in float64: what the kernels may differ from by the rounding of their sums, no more."""
    scheme = weight.activations
    rounded = inputs.float() if scheme is None else round_activations(inputs, scheme)
    return functional.linear(rounded.double(), weight.dequantize().double(), None if bias is None else bias.double())


def assert_equals_definition(linear: QuantizedLinear, inputs: torch.Tensor, weight: QuantizedTensor) -> None:
    expected = exact(inputs, weight)
    found = linear(inputs)
    assert found.dtype is torch.float32
    magnitude = functional.linear(inputs.double().abs(), weight.dequantize().double().abs())
    assert bool(((found.double() - expected).abs() <= 3e-6 * magnitude + 1e-30).all())


shapes = st.tuples(st.integers(1, 9), st.integers(1, 90), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(FORMATS), st.sampled_from([8, 16, 32, 64, 128]), st.booleans())
def test_integer_products_per_group(shape: tuple[int, int, int], name: str, group: int, is_symmetric: bool) -> None:
    rows, columns, groups = shape
    scheme = f"rtn-{name}-g{group}{'' if is_symmetric else '-asym'}-a8"
    weight = quantized_matrix(scheme, columns, groups * group)
    assert can_multiply_integers(weight, torch.bfloat16)
    linear = IntegerLinear(kernels(), weight, None, wide_output=True)
    assert_equals_definition(linear, some_inputs(rows, groups * group), weight)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from([16, 32, 64, 320]), st.booleans())
def test_bytes_of_which_six_bits_are_used_take_six(shape: tuple[int, int, int], group: int, is_symmetric: bool) -> None:
    rows, columns, groups = shape
    weight = six_bit_matrix(columns, groups * group, group, is_symmetric=is_symmetric)
    linear = IntegerLinear(kernels(), weight, None, wide_output=True)
    assert linear.weights.bits == 6
    assert linear.weights.packed.numel() == -(-columns // 64) * 64 * groups * group * 6 // 8
    assert_equals_definition(linear, some_inputs(rows, groups * group), weight)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([*FORMATS, "fp8", "fp8e5m2"]), st.sampled_from([8, 16, 64, 128]), st.booleans())
def test_looked_up_products_per_group(shape: tuple[int, int, int], name: str, group: int, is_symmetric: bool) -> None:
    rows, columns, groups = shape
    asym = "" if is_symmetric or name.startswith("fp8") else "-asym"
    weight = quantized_matrix(f"rtn-{name}-g{group}{asym}-a16", columns, groups * group)
    assert can_look_up(weight, torch.bfloat16)
    linear = TableLinear(kernels(), weight, None, wide_output=True)
    inputs = some_inputs(rows, groups * group)
    assert_equals_definition(linear, inputs, weight)
    plain = linear(inputs)
    linear.expand_from_rows = 1
    assert torch.equal(linear(inputs), plain), "looking up first changes no bit"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 70), st.integers(1, 200), st.sampled_from(FORMATS), st.booleans())
def test_products_per_row_of_any_length(rows: int, columns: int, inner: int, name: str, is_integer: bool) -> None:
    weight = quantized_matrix(f"rtn-{name}-{'a8' if is_integer else 'a16'}", columns, inner)
    kind = IntegerLinear if is_integer else TableLinear
    assert_equals_definition(kind(kernels(), weight, None, wide_output=True), some_inputs(rows, inner), weight)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10))
def test_activations_become_the_codes_of_the_definition(rows: int, seed: int) -> None:
    weight = quantized_matrix("rtn-int8", 16, 96)
    inputs = some_inputs(rows, 96, seed=seed)
    identity = torch.eye(96)[:16]
    assert weight.activations is not None
    expected = functional.linear(round_activations(inputs, weight.activations), identity)
    codes, scales, sums = torch.empty(rows, 96, dtype=torch.int8), torch.empty(rows, 1), torch.empty(rows, 1).int()
    kernels().quantize_rows_bf16(
        codes.data_ptr(), scales.data_ptr(), sums.data_ptr(), inputs.data_ptr(), rows, 96, 96, 1, 1
    )
    assert torch.equal(codes[:, :16] * scales, expected)
    assert torch.equal(sums[:, 0], codes.sum(dim=1).int())
