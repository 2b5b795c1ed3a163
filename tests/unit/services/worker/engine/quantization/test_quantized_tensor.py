"""Packed matrices: their size, their meaning with every optional part, cutting and joining."""

from dataclasses import replace

import pytest
import torch

from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantization_error import UnsupportedBits, UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor, can_join, join_rows
from services.worker.engine.quantization.rounding import quantize, with_activations
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme, integers


def _matrix(rows: int = 6, columns: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_packed_matrix_takes_its_bits_and_its_scales(bits: int) -> None:
    quantized = quantize(_matrix(8, 256), integers(bits, group_size=64), scale_dtype=torch.bfloat16)
    assert quantized.codes.numel() == 8 * 256 * bits // 8
    assert quantized.num_bytes == quantized.codes.numel() + 8 * 4 * 2
    assert quantized.bits_per_value == pytest.approx(bits + 16 / 64)


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert pack_codes(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack_codes(torch.tensor([1, 2, 3, 0, 1]), 2).tolist() == [0b00_11_10_01, 0b01]


def test_packing_refuses_a_width_that_does_not_fill_bytes() -> None:
    with pytest.raises(UnsupportedBits, match="3 bits"):
        pack_codes(torch.tensor([1]), 3)


def test_minimums_shift_every_value_of_their_group_and_take_the_place_of_zero_points() -> None:
    tensor = QuantizedTensor(
        scheme=integers(4, group_size=2, is_symmetric=False),
        shape=(1, 4),
        codes=pack_codes(torch.tensor([[0, 15, 0, 1]]), 4),
        scales=torch.tensor([[1.0, 10.0]]),
        minimums=torch.tensor([[-3.0, 0.5]]),
    )
    assert tensor.dequantize().tolist() == [[-3.0, 12.0, 0.5, 10.5]]


def test_a_group_index_says_whose_scale_each_column_takes() -> None:
    tensor = QuantizedTensor(
        scheme=integers(8, group_size=2),
        shape=(1, 4),
        codes=pack_codes(torch.full((1, 4), 129), 8),
        scales=torch.tensor([[1.0, 10.0]]),
        group_index=torch.tensor([1, 0, 1, 0], dtype=torch.int32),
    )
    assert tensor.dequantize().tolist() == [[10.0, 1.0, 10.0, 1.0]]


@pytest.mark.parametrize(
    "scheme",
    [
        QuantizationScheme(bits=8, granularity=Granularity.TENSOR),
        integers(4, is_symmetric=False),
        integers(2, group_size=32),
        QuantizationScheme(bits=8, number_format=NumberFormat.FLOAT8_E4M3),
    ],
    ids=["per tensor", "per channel", "per group", "float"],
)
def test_cut_rows_and_joined_rows_are_the_same_matrix_again(scheme: QuantizationScheme) -> None:
    whole = quantize(_matrix(), scheme)
    parts = [whole.rows(0, 2), whole.rows(2, 3), whole.rows(3, 6)]
    assert torch.equal(torch.cat([part.dequantize() for part in parts]), whole.dequantize())
    assert torch.equal(join_rows(parts).dequantize(), whole.dequantize())


def test_joined_matrices_with_a_scale_for_each_tensor_keep_their_own() -> None:
    scheme = QuantizationScheme(bits=8, granularity=Granularity.TENSOR)
    parts = [quantize(_matrix(seed=1), scheme), quantize(100 * _matrix(3, seed=2), scheme)]
    joined = join_rows(parts)
    assert joined.scheme.granularity is Granularity.CHANNEL
    assert torch.equal(joined.dequantize(), torch.cat([part.dequantize() for part in parts]))


def test_minimums_and_zero_points_are_joined_too() -> None:
    parts = [quantize(_matrix(seed=seed), integers(4, group_size=32, is_symmetric=False)) for seed in (1, 2)]
    assert torch.equal(join_rows(parts).dequantize(), torch.cat([part.dequantize() for part in parts]))
    shifted = [replace(part, zero_points=None, minimums=-part.scales) for part in parts]
    assert torch.equal(join_rows(shifted).dequantize(), torch.cat([part.dequantize() for part in shifted]))


def test_matrices_that_differ_in_scheme_columns_order_or_activations_are_not_joined() -> None:
    first = quantize(_matrix(), integers(4, group_size=32))
    index = torch.arange(64, dtype=torch.int32) % 2
    others = [
        quantize(_matrix(), integers(8, group_size=32)),
        quantize(_matrix(6, 32), integers(4, group_size=32)),
        replace(first, group_index=index),
        replace(first, minimums=torch.zeros_like(first.scales)),
        with_activations(first, integers(8)),
    ]
    for other in others:
        assert not can_join([first, other])
        with pytest.raises(UnsupportedScheme, match="cannot be joined"):
            join_rows([first, other])
    assert can_join([replace(first, group_index=index), replace(first, group_index=index.clone())])


def test_a_matrix_moves_to_a_device_with_all_its_parts() -> None:
    tensor = quantize(_matrix(), integers(4, group_size=32, is_symmetric=False))
    moved = tensor.to(torch.device("meta"))
    assert {part.device.type for part in (moved.codes, moved.scales, moved.zero_points) if part is not None} == {"meta"}
