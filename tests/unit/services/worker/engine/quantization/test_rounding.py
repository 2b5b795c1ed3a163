"""Scales by hand, and every refusal by its name."""

import math

import pytest
import torch

from services.worker.engine.quantization.quantization_error import (
    EmptyTensor,
    GroupSizeDoesNotDivide,
    NotFinite,
    QuantizationError,
    UnsupportedBits,
    UnsupportedScheme,
)
from services.worker.engine.quantization.rounding import choose_scales, quantize, quantize_tokens
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme, integers


@pytest.mark.parametrize(("bits", "highest"), [(2, 1), (4, 7), (8, 127)])
def test_a_symmetric_scale_is_the_largest_magnitude_over_the_highest_integer(bits: int, highest: int) -> None:
    quantized = quantize(torch.tensor([[0.5, -3.0, 2.0]]), integers(bits))
    assert quantized.scales.item() == pytest.approx(3.0 / highest)
    assert quantized.integers().tolist()[0][1] == -highest


@pytest.mark.parametrize(("bits", "levels"), [(2, 3), (4, 15), (8, 255)])
def test_an_asymmetric_scale_is_the_range_over_all_levels(bits: int, levels: int) -> None:
    quantized = quantize(torch.tensor([[-1.0, 0.0, 2.0]]), integers(bits, is_symmetric=False))
    assert quantized.scales.item() == pytest.approx(3.0 / levels)
    assert quantized.zero_points is not None
    assert quantized.zero_points.item() == levels // 3
    assert quantized.dequantize()[0].tolist() == pytest.approx([-1.0, 0.0, 2.0])


@pytest.mark.parametrize(("is_symmetric", "lowest", "highest"), [(True, -31, 31), (False, 0, 63)])
def test_codes_use_as_many_of_their_bits_as_they_are_told(is_symmetric: bool, lowest: int, highest: int) -> None:
    values = torch.linspace(-1.0, 2.0 - is_symmetric, 128)[None]
    quantized = quantize(values, integers(8, is_symmetric=is_symmetric, used_bits=6))
    found = quantized.integers() + (0 if quantized.zero_points is None else quantized.zero_points.int())
    assert (int(found.min()), int(found.max())) == (lowest, highest)
    assert float((quantized.dequantize() - values).abs().max()) <= float(quantized.scales.max()) / 2 + 1e-6


@pytest.mark.parametrize("used_bits", [1, 9])
def test_codes_cannot_use_bits_that_they_do_not_have(used_bits: int) -> None:
    with pytest.raises(UnsupportedScheme, match=f"integer codes of 8 bits cannot use {used_bits} of them"):
        integers(8, used_bits=used_bits)


def test_the_range_of_an_asymmetric_group_holds_zero_even_where_the_values_do_not() -> None:
    quantized = quantize(torch.tensor([[3.0, 4.0]]), integers(8, is_symmetric=False))
    assert quantized.scales.item() == pytest.approx(4.0 / 255)
    assert quantized.zero_points is not None
    assert quantized.zero_points.item() == 0


def test_each_granularity_has_the_scales_that_its_name_says() -> None:
    values = torch.arange(1.0, 257.0).reshape(2, 128)
    per_tensor = quantize(values, QuantizationScheme(bits=8, granularity=Granularity.TENSOR))
    per_channel = quantize(values, integers(8))
    per_group = quantize(values, integers(8, group_size=32))
    assert (per_tensor.scales * 127).tolist() == [[pytest.approx(256.0)]]
    assert (per_channel.scales * 127).flatten().tolist() == pytest.approx([128.0, 256.0])
    assert (per_group.scales * 127).flatten().tolist() == pytest.approx([32.0 * n for n in range(1, 9)])


def test_a_token_has_a_scale_of_its_own() -> None:
    quantized = quantize_tokens(torch.tensor([[1.0, -0.5], [100.0, 50.0]]))
    assert quantized.scales.flatten().tolist() == pytest.approx([1 / 127, 100 / 127])
    assert quantized.integers().tolist() == [[127, -64], [127, 64]]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_a_channel_of_zeros_comes_back_as_zeros_beside_others(bits: int, is_symmetric: bool) -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    restored = quantize(values, integers(bits, is_symmetric=is_symmetric)).dequantize()
    assert restored[0].tolist() == [0.0, 0.0]
    assert restored[1].abs().min() > 0.5


def test_values_at_the_edge_of_float32_do_not_overflow_the_scale() -> None:
    largest = 0.9 * torch.finfo(torch.float32).max
    restored = quantize(torch.tensor([[-largest, largest]]), integers(8, is_symmetric=False)).dequantize()
    assert restored.isfinite().all()
    assert restored[0, 1] > 0.99 * largest


def test_the_smallest_floats_come_back_as_zero_not_as_noise() -> None:
    assert quantize(torch.tensor([[1e-44, -1e-44]]), integers(8)).dequantize().abs().max() <= 1e-38


def test_clipping_a_range_takes_its_share_of_the_scale() -> None:
    values = torch.tensor([[4.0, -1.0]])
    whole, _ = choose_scales(values, integers(4))
    clipped, _ = choose_scales(values, integers(4), shrink=0.5)
    assert clipped.item() == pytest.approx(whole.item() / 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_or_not_finite_is_refused_by_count(value: float) -> None:
    with pytest.raises(NotFinite, match="1 of the values"):
        quantize(torch.tensor([[0.0, value]]), integers(8))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_tensor_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(EmptyTensor, match="no values"):
        quantize(torch.empty(shape), integers(8))


@pytest.mark.parametrize("bits", [-1, 0, 1, 3, 5, 16])
def test_a_width_without_storage_is_refused_with_those_that_have_one(bits: int) -> None:
    with pytest.raises(UnsupportedBits, match=f"{bits} bits are not supported, only 2, 4, 8"):
        integers(bits)


def test_a_group_size_that_does_not_divide_names_both_numbers() -> None:
    with pytest.raises(GroupSizeDoesNotDivide, match="group size 128 does not divide 576 columns"):
        quantize(torch.ones(1, 576), integers(4, group_size=128))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UnsupportedScheme, match="exclude each other"):
        QuantizationScheme(bits=4, granularity=Granularity.GROUP)
    with pytest.raises(UnsupportedScheme, match="exclude each other"):
        QuantizationScheme(bits=4, granularity=Granularity.CHANNEL, group_size=32)
    with pytest.raises(UnsupportedScheme, match="cannot be meant"):
        integers(4, group_size=0)
    with pytest.raises(UnsupportedScheme, match="no zero point"):
        QuantizationScheme(bits=8, number_format=NumberFormat.FLOAT8_E4M3, is_symmetric=False)
    with pytest.raises(UnsupportedBits, match="only 8"):
        QuantizationScheme(bits=4, number_format=NumberFormat.FLOAT8_E4M3)
    with pytest.raises(UnsupportedScheme, match="a matrix"):
        quantize(torch.ones(3), integers(8))


def test_every_refusal_is_a_quantization_error_and_a_value_error() -> None:
    for error in (EmptyTensor, UnsupportedBits, NotFinite, GroupSizeDoesNotDivide, UnsupportedScheme):
        assert issubclass(error, QuantizationError)
    assert issubclass(QuantizationError, ValueError)
