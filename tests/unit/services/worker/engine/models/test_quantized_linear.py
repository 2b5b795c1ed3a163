"""Which product a quantized matrix gets, and what all of them promise about rows, threads, bias and bad numbers."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from services.worker.engine.models.quantized_linear import QuantizedLinear, QuantizedLinears
from services.worker.engine.models.quantized_reference import DequantizingLinear, round_activations
from services.worker.engine.native.library import choose_products, load_products, open_library
from services.worker.engine.native.quantized_library import load_quantized_kernels
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import QuantizationScheme, integers
from tests.quantized_matrices import quantized_matrix, some_inputs

SCHEMES = [
    "rtn-int8",
    "rtn-int8-a16",
    "rtn-int4-g32",
    "rtn-int4-g64-a8",
    "rtn-int4-g32-asym",
    "rtn-int2-g32",
    "rtn-fp8",
]
CPU = torch.device("cpu")
TABLE_SCHEMES = ["rtn-int8-a16", "rtn-int4-g32", "rtn-int4-g32-asym", "rtn-int2-g32", "rtn-fp8"]


def make(weight: QuantizedTensor, bias: torch.Tensor | None = None, *, wide: bool = False) -> QuantizedLinear:
    if load_quantized_kernels() is None:
        pytest.skip("no C compiler")
    return QuantizedLinears(torch.bfloat16, CPU).make(weight, bias, wide_output=wide)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_is_the_same_bit_by_bit_in_every_batch_and_on_every_number_of_threads(scheme: str) -> None:
    linear, inputs = make(quantized_matrix(scheme, 330, 576), wide=True), some_inputs(70, 576)
    alone = torch.cat([linear(inputs[row : row + 1]) for row in range(70)])
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for size in (2, 7, 32, 70):
                assert torch.equal(linear(inputs[:size]), alone[:size])
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bias_is_added_before_the_only_rounding(scheme: str) -> None:
    weight, bias = quantized_matrix(scheme, 37, 64), torch.linspace(-3, 3, 37).bfloat16()
    inputs = some_inputs(5, 64)
    found = make(weight, bias)(inputs)
    expected = DequantizingLinear(weight, bias, wide_output=False)(inputs)
    assert found.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=8e-3, atol=1e-3)
    wide = make(weight, bias, wide=True)(inputs)
    assert torch.equal(wide.bfloat16(), found)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_in_its_row_and_is_not_hidden(scheme: str, bad: float) -> None:
    inputs = torch.ones(4, 64).bfloat16()
    inputs[2, 3] = bad
    found = make(quantized_matrix(scheme, 20, 64))(inputs)
    assert found[[0, 1, 3]].isfinite().all()
    assert not found[2, 1].isfinite(), "the first row of the matrix is zero where the bad number is"


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("rtn-int8", "integer"),
        ("rtn-int4-g64-a8", "integer"),
        ("rtn-int2-g32-a8", "integer"),
        ("rtn-int8-a16", "table"),
        ("rtn-int4-g64", "table"),
        ("rtn-fp8", "table"),
        ("rtn-fp8-a8", "table"),
        ("rtn-int4-g2", "dequantize"),
    ],
)
def test_the_kind_follows_the_scheme(scheme: str, kind: str) -> None:
    assert make(quantized_matrix(scheme, 16, 64)).name == kind


def test_types_and_devices_without_kernels_dequantize() -> None:
    weight, inputs = quantized_matrix("rtn-int4-g32", 24, 64), torch.randn(3, 64).half()
    linear = QuantizedLinears(torch.float16, CPU).make(weight, None, wide_output=False)
    assert isinstance(linear, DequantizingLinear)
    expected = functional.linear(inputs.float(), weight.dequantize()).half()
    assert torch.equal(linear(inputs), expected)
    wide = QuantizedLinears(torch.float32, CPU).make(weight, None, wide_output=False)
    assert wide.name == "dequantize"


def test_float32_activations_are_rounded_to_bytes_as_well() -> None:
    weight, inputs = quantized_matrix("rtn-int8", 24, 64), some_inputs(3, 64).float()
    linear = QuantizedLinears(torch.float32, CPU).make(weight, None, wide_output=False)
    expected = DequantizingLinear(weight, None, wide_output=False)(inputs)
    assert linear(inputs).dtype is torch.float32
    torch.testing.assert_close(linear(inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["rtn-int4-g32", "rtn-int4-g32-asym", "rtn-int8-g32-a16"])
@pytest.mark.parametrize("activations", [None, integers(8)])
def test_columns_that_do_not_lie_by_group_are_put_in_order(scheme: str, activations: QuantizationScheme | None) -> None:
    plain = quantized_matrix(scheme, 24, 96)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    index = (torch.arange(96) // 32).int()[order]
    weight = replace(plain, group_index=index, activations=activations)
    inputs = some_inputs(4, 96)
    expected = DequantizingLinear(weight, None, wide_output=True)(inputs)
    torch.testing.assert_close(make(weight, wide=True)(inputs), expected, rtol=1e-4, atol=1e-3)


def test_codes_that_count_from_a_minimum_are_multiplied_so() -> None:
    """GGUF's Q4_1: no zero point, a float that code 0 means."""
    symmetric = quantized_matrix("rtn-int4-g32", 24, 96)
    minimums = torch.randn(24, 3, generator=torch.Generator().manual_seed(5)).half()
    for activations in (None, integers(8)):
        weight = replace(symmetric, minimums=minimums, scales=symmetric.scales.half(), activations=activations)
        inputs = some_inputs(4, 96)
        expected = DequantizingLinear(weight, None, wide_output=True)(inputs)
        torch.testing.assert_close(make(weight, wide=True)(inputs), expected, rtol=1e-4, atol=2e-3)


def test_the_lowest_byte_is_not_lost_where_signs_are_kept_apart() -> None:
    """-128 has no magnitude of seven bits: Q8_0 files hold it."""
    weight = quantized_matrix("rtn-int8-g32-a16", 8, 32)
    weight.codes[3, 5] = 0
    inputs = some_inputs(2, 32)
    expected = DequantizingLinear(weight, None, wide_output=True)(inputs)
    torch.testing.assert_close(make(weight, wide=True)(inputs), expected, rtol=1e-5, atol=1e-4)


def test_scales_are_halved_in_size_only_where_that_is_exact() -> None:
    weight = quantized_matrix("rtn-int4-g32", 64, 64)
    exact = replace(weight, scales=weight.scales.half())
    assert make(exact).num_bytes == 64 * 64 // 2 + 64 * 2 * 2
    assert make(weight).num_bytes == 64 * 64 // 2 + 64 * 2 * 4


def test_the_note_counts_kinds_and_tells_their_size() -> None:
    kinds = QuantizedLinears(torch.bfloat16, CPU)
    assert kinds.note == ""
    kinds.make(quantized_matrix("rtn-int8", 1000, 1000), None, wide_output=False)
    kinds.make(quantized_matrix("rtn-int4-g4", 16, 64), None, wide_output=False)
    assert "1 by dequantize" in kinds.note
    assert kinds.note.endswith("1 MB")


def test_rounded_activations_are_what_the_scheme_can_represent() -> None:
    inputs = torch.tensor([[127.0, 1.4, -126.6, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert round_activations(inputs, integers(8)).tolist() == [[127.0, 1.0, -127.0, 0.0], [0.0] * 4]
    grouped = round_activations(torch.tensor([[127.0, 1.0, 1.0, 0.25]]), integers(8, group_size=2))
    assert grouped[0, :2].tolist() == [127.0, 1.0]
    assert grouped[0, 3] == pytest.approx(0.25, abs=1 / 254)


@pytest.mark.parametrize("rows", [2, 5, 8, 40])
@pytest.mark.parametrize("scheme", TABLE_SCHEMES)
def test_codes_with_16_bit_inputs_by_pairs_and_by_float32_give_the_same_bits(scheme: str, rows: int) -> None:
    products, library = load_products(), open_library()
    if products is None or library is None or not products.are_fast:
        pytest.skip("there is one way here")
    linear, inputs, found = make(quantized_matrix(scheme, 330, 576), wide=True), some_inputs(rows, 576), []
    try:
        for is_wide in (0, 1):
            products.use_wide(is_wide)
            found.append(linear(inputs))
    finally:
        choose_products(library)
    assert torch.equal(*found)
