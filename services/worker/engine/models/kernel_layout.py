"""A quantized matrix as the C kernels read it: codes packed for 16 columns at a time, scales and offsets beside them.

Only rearranges: what a code means stays exactly what `QuantizedTensor` says. "Columns" are the product's, the matrix's
rows; `inner` is what is summed over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from services.worker.engine.native.quantized_library import COLUMN_STEP, COLUMNS_PER_STRIP
from services.worker.engine.native.weight_memory import WEIGHT_MEMORY
from services.worker.engine.quantization.packing import unpack_codes
from services.worker.engine.quantization.quantized_tensor import FLOAT8_DTYPES, QuantizedTensor
from services.worker.engine.quantization.scheme import NumberFormat

_SIX_BITS_STEP = 16
INNER_STEP = 8
"""Groups are whole multiples of this, or there is one group, padded."""

_HALF_INTEGER_ZERO = 127.5
"""Unsigned bytes minus this are symmetric: a sign and one of 128 magnitudes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelWeights:
    """value = scale * number(code) + offset. `scales`, `offsets`: [columns / 16, groups, 16], float16 where that is
    exact, else float32; offsets None: all 0. `table`: number(code) in bfloat16; None: number(code) = code - zero.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None
    table: torch.Tensor | None
    zero: int
    bits: int
    num_columns: int
    num_inner: int
    num_padded: int
    num_groups: int

    @property
    def is_half(self) -> bool:
        return self.scales.dtype is torch.float16

    @property
    def num_bytes(self) -> int:
        parts = (self.packed, self.scales, self.offsets)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


def common_group_size(tensor: QuantizedTensor) -> int | None:
    """Neighbours that share both the weight's scale and the activations'; all of `inner` where that is one group.

    None where the kernels have no such groups.
    """
    inner = tensor.shape[1]
    sizes = [tensor.scheme.group_size or inner]
    if tensor.activations is not None:
        sizes.append(tensor.activations.group_size or inner)
    smallest, largest = min(sizes), max(sizes)
    if largest % smallest or inner % largest:
        return None
    if tensor.group_index is not None and bool((torch.bincount(tensor.group_index) != sizes[0]).any()):
        return None
    return smallest if smallest == inner or smallest % INNER_STEP == 0 else None


def integer_weights(tensor: QuantizedTensor, group_size: int) -> KernelWeights:
    """For quantized_integer.c: 4-bit codes (and 2-bit ones, in 4 bits), 8-bit ones, and in 6 bits what fits there."""
    codes = _codes(tensor)
    bits, lowest = max(4, tensor.scheme.bits), 0
    if bits == 8 and group_size % _SIX_BITS_STEP == 0:
        smallest, largest = (int(limit) for limit in codes.aminmax())
        bits, lowest = (6, smallest) if largest - smallest < 1 << 6 else (8, 0)
    strips = _in_strips(codes - lowest)
    num_padded = strips.shape[2]
    if bits == 6:
        # [columns / 16, inner / 16, 4, 16, 4]; the fourth quad is spread over the others.
        quads = strips.view(-1, COLUMNS_PER_STRIP, num_padded // 16, 4, 4).permute(0, 2, 3, 1, 4)
        parts = torch.stack([quads[:, :, 3] >> shift & 3 for shift in (0, 2, 4)], dim=2)
        packed = quads[:, :, :3] | parts << 6
    elif bits == 8:
        packed = strips.view(-1, COLUMNS_PER_STRIP, num_padded // 4, 4).transpose(1, 2)
    else:
        # [columns / 16, inner / 8, 2, 16, 4]
        quads = strips.view(-1, COLUMNS_PER_STRIP, num_padded // 8, 2, 4).permute(0, 2, 3, 1, 4)
        packed = quads[:, :, 0] | (quads[:, :, 1] << 4)
    return _kernel_weights(
        tensor,
        group_size,
        packed,
        zero=float(tensor.scheme.implied_zero_point),
        lowest=lowest,
        table=None,
        bits=bits,
    )


def table_weights(tensor: QuantizedTensor, group_size: int) -> KernelWeights:
    """For quantized_table.c: integers of 2, 4 and 8 bits and both 8-bit floats."""
    zero = float(tensor.scheme.implied_zero_point)
    codes = _codes(tensor)
    if tensor.scheme.number_format is not NumberFormat.INTEGER:
        bytes_of_magnitudes = torch.arange(128, dtype=torch.uint8).view(FLOAT8_DTYPES[tensor.scheme.number_format])
        table, bits, zero = bytes_of_magnitudes.float(), 8, 0.0
    elif tensor.scheme.bits < 8:
        table, bits = torch.arange(16) - zero, 4
    elif _is_symmetric(tensor) and bool((codes > 0).all()):
        numbers = codes.to(torch.int16) - int(zero)
        codes, table, bits = _sign_and_magnitude(numbers < 0, numbers.abs()), torch.arange(128.0), 8
    else:
        is_negative = codes < 128
        magnitudes = torch.where(is_negative, 127 - codes.to(torch.int16), codes.to(torch.int16) - 128)
        codes, table, bits = _sign_and_magnitude(is_negative, magnitudes), torch.arange(128) + 0.5, 8
        zero = _HALF_INTEGER_ZERO
    strips = _in_strips(codes)
    places = strips.view(-1, COLUMNS_PER_STRIP, strips.shape[2] * bits // 32, 16 // bits, 2)
    pairs = places.permute(0, 2, 1, 4, 3).to(torch.int32)  # [columns / 16, steps, 16, 2, places in a word]
    shifts = torch.arange(0, 16, bits, dtype=torch.int32)
    words = (pairs << shifts).sum(dim=-1).to(torch.int16)  # [columns / 16, steps, 16, 2]
    return _kernel_weights(tensor, group_size, words, zero=zero, table=table.bfloat16(), bits=bits)


def permutation(tensor: QuantizedTensor) -> torch.Tensor | None:
    """Columns in the order of their groups, where they do not lie so (GPTQ's act-order)."""
    if tensor.group_index is None:
        return None
    order = tensor.group_index.long().argsort(stable=True)
    return None if torch.equal(order, torch.arange(len(order))) else order


def _codes(tensor: QuantizedTensor) -> torch.Tensor:
    """uint8 [rows, columns], in the order of the groups."""
    is_integer = tensor.scheme.number_format is NumberFormat.INTEGER
    codes = unpack_codes(tensor.codes, tensor.scheme.bits, tensor.shape[1]) if is_integer else tensor.codes
    order = permutation(tensor)
    return codes if order is None else codes[:, order]


def _is_symmetric(tensor: QuantizedTensor) -> bool:
    return tensor.zero_points is None and tensor.minimums is None


def _sign_and_magnitude(is_negative: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    return magnitudes.to(torch.uint8) | (is_negative.to(torch.uint8) << 7)


def _in_strips(codes: torch.Tensor) -> torch.Tensor:
    """[columns, inner] -> [columns / 16, 16, padded inner]."""
    columns, inner = codes.shape
    padded = functional.pad(codes, (0, -inner % INNER_STEP, 0, -columns % COLUMN_STEP))
    return padded.view(-1, COLUMNS_PER_STRIP, padded.shape[1])


def _kernel_weights(
    tensor: QuantizedTensor,
    group_size: int,
    packed: torch.Tensor,
    *,
    zero: float,
    table: torch.Tensor | None,
    bits: int,
    lowest: int = 0,
) -> KernelWeights:
    columns, inner = tensor.shape
    scales = tensor.scales.float()
    offsets: torch.Tensor | None = None
    if tensor.minimums is not None:
        offsets = tensor.minimums.float() + scales * zero
    elif tensor.zero_points is not None:
        offsets = scales * (zero - tensor.zero_points.float())
    elif table is not None and zero == _HALF_INTEGER_ZERO:
        offsets = scales * (zero - tensor.scheme.implied_zero_point)
    laid = [_per_strip(part, columns, inner // group_size) for part in (scales, offsets) if part is not None]
    if all(torch.equal(part.half().float(), part) for part in laid):
        laid = [part.half() for part in laid]
    return KernelWeights(
        packed=WEIGHT_MEMORY.copy(packed),
        scales=WEIGHT_MEMORY.copy(laid[0]),
        offsets=WEIGHT_MEMORY.copy(laid[1]) if len(laid) > 1 else None,
        table=table,
        zero=int(zero) - lowest,
        bits=bits,
        num_columns=columns,
        num_inner=inner,
        num_padded=inner + -inner % INNER_STEP,
        num_groups=inner // group_size,
    )


def _per_strip(part: torch.Tensor, columns: int, num_groups: int) -> torch.Tensor:
    """[rows or 1, weight groups] -> [columns / 16, groups, 16]."""
    spread = part.expand(columns, -1).repeat_interleave(num_groups // part.shape[1], dim=1)
    padded = functional.pad(spread, (0, 0, 0, -columns % COLUMN_STEP))
    return padded.view(-1, COLUMNS_PER_STRIP, num_groups).transpose(1, 2).contiguous()
