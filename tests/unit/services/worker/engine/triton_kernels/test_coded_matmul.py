"""Triton's products with quantized weights against the definition: interpreted, or compiled where there is a card."""

from dataclasses import replace

import pytest
import torch

from services.worker.engine.models.quantized_reference import DequantizingLinear, round_activations
from services.worker.engine.models.quantized_triton import TritonLinear, can_run_on_triton
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.triton_kernels.coded_matmul import quantize_inputs
from tests.quantized_matrices import quantized_matrix, some_inputs

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCHEMES = [
    "rtn-int2-g32",
    "rtn-int4-g32",
    "rtn-int4-g64-asym",
    "rtn-int4-g32-asym-a8",
    "rtn-int4-g64-a8",
    "rtn-int8",
    "rtn-int8-a16",
    "rtn-int8-asym-a8",
    "rtn-fp8",
    "rtn-fp8e5m2",
]


def product(weight: QuantizedTensor, inputs: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    assert can_run_on_triton(weight, torch.bfloat16)
    return TritonLinear(weight, bias, device=DEVICE, wide_output=True)(inputs.to(DEVICE)).cpu()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("rows", "columns", "inner"), [(1, 70, 192), (19, 64, 64)])
def test_products_are_those_of_the_definition(scheme: str, rows: int, columns: int, inner: int) -> None:
    weight, inputs = quantized_matrix(scheme, columns, inner), some_inputs(rows, inner)
    bias = torch.linspace(-2, 2, columns)
    expected = DequantizingLinear(weight, bias, wide_output=True)(inputs)
    torch.testing.assert_close(product(weight, inputs, bias), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("scheme", ["rtn-int4-g32", "rtn-int8"])
def test_a_row_is_the_same_bit_by_bit_alone_and_beside_others(scheme: str) -> None:
    weight, inputs = quantized_matrix(scheme, 40, 64), some_inputs(5, 64)
    together = product(weight, inputs)
    assert torch.equal(torch.cat([product(weight, inputs[row : row + 1]) for row in range(5)]), together)


def test_columns_in_the_order_of_act_order_meet_their_own_inputs() -> None:
    weight = quantized_matrix("rtn-int4-g32-asym", 24, 96)
    shuffled = replace(weight, group_index=(torch.arange(96) % 3).to(torch.int32))
    inputs = some_inputs(3, 96)
    expected = DequantizingLinear(shuffled, None, wide_output=True)(inputs)
    torch.testing.assert_close(product(shuffled, inputs), expected, rtol=2e-4, atol=2e-4)


def test_inputs_become_the_codes_of_the_definition_and_what_is_not_finite_spoils_its_own_row() -> None:
    weight, inputs = quantized_matrix("rtn-int8", 8, 80), some_inputs(4, 80)
    assert weight.activations is not None
    codes, scales = quantize_inputs(inputs.to(DEVICE), 1)
    assert torch.equal((codes * scales).cpu(), round_activations(inputs, weight.activations))
    inputs[2, 5] = float("inf")
    _, scales = quantize_inputs(inputs.to(DEVICE), 1)
    assert scales.isnan().flatten().tolist() == [False, False, True, False]


def test_what_tensor_cores_have_no_shape_for_is_left_to_others() -> None:
    assert not can_run_on_triton(quantized_matrix("rtn-int4-g8", 8, 64), torch.bfloat16)
    assert not can_run_on_triton(quantized_matrix("rtn-int4-g32", 8, 64), torch.float32)
    assert not can_run_on_triton(quantized_matrix("rtn-int8", 8, 80), torch.bfloat16)
