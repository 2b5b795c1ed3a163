"""Products with weights of 2, 4 and 8 bits that are never written out wider: codes become numbers in registers.

Inputs of 16 bits: a group's codes, exact in 16 bits, are multiplied and the sum is scaled: no weight is rounded.
Inputs of 8 bits: sums of integers, exact. A row's result does not depend on the rows beside it: one order of groups.
Sources: Frantar et al. 2024 (MARLIN), section 3.2, dequantizing beside the product; Jacob et al. 2018, section 2.2.
Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl

from services.worker.engine.triton_kernels.availability import is_interpreted

_ROWS_OF_TILE = (16, 64)
_COLUMNS_OF_TILE = 64
_MOST_INNER_OF_TILE = 64


def coded_matmul(
    inputs: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    offsets: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    bits: int,
    zero: int,
    float8: str,
    num_groups: int,
    input_scales: torch.Tensor | None,
    output: torch.Tensor,
) -> torch.Tensor:
    """inputs [T, inner], 16 bits or float32, or int8 with `input_scales` [T, groups] -> `output` [T, columns].

    codes uint8 [columns, packed bytes] as packing.py lays them; scales, offsets [columns, groups] float32: a weight is
    scale * (code - zero) + offset. `float8`: e4m3 or e5m2 where codes are those, else empty.
    """
    num_rows, num_inner = inputs.shape
    num_columns, group_size = codes.shape[0], num_inner // num_groups
    tile_inner = min(_MOST_INNER_OF_TILE, triton.next_power_of_2(group_size))
    tile_rows = _ROWS_OF_TILE[0] if num_rows <= _ROWS_OF_TILE[0] else _ROWS_OF_TILE[1]
    _multiply_codes[(triton.cdiv(num_rows, tile_rows), triton.cdiv(num_columns, _COLUMNS_OF_TILE))](
        inputs,
        inputs if input_scales is None else input_scales,
        codes,
        scales,
        scales if offsets is None else offsets,
        scales if bias is None else bias,
        output,
        num_rows,
        num_columns,
        num_inner,
        num_groups,
        codes.stride(0),
        GROUP_SIZE=group_size,
        BITS=bits,
        ZERO=zero,
        FLOAT8=float8,
        HAS_OFFSETS=offsets is not None,
        HAS_BIAS=bias is not None,
        IS_INTEGER=input_scales is not None,
        ROWS=tile_rows,
        COLUMNS=_COLUMNS_OF_TILE,
        INNER=max(16, tile_inner),
        IS_INTERPRETED=is_interpreted(),
    )
    return output


def quantize_inputs(inputs: torch.Tensor, num_scales: int) -> tuple[torch.Tensor, torch.Tensor]:
    """inputs [T, inner] -> int8 of the same shape and scales [T, num_scales] float32; NaN where one is not finite."""
    num_rows, num_inner = inputs.shape
    codes = torch.empty((num_rows, num_inner), dtype=torch.int8, device=inputs.device)
    scales = torch.empty((num_rows, num_scales), dtype=torch.float32, device=inputs.device)
    span = num_inner // num_scales
    _round_span[(num_rows, num_scales)](inputs, codes, scales, SPAN=span, PADDED=triton.next_power_of_2(span))
    return codes, scales


@triton.jit
def float8_number(code, IS_E4M3: tl.constexpr):
    """The byte of an 8-bit float -> float32: its bits in the wider format, whose exponent a power of two mends."""
    wide = code.to(tl.int32)
    sign = tl.where(wide >= 128, -1.0, 1.0)
    magnitude = wide & 0x7F
    if IS_E4M3:
        return sign * ((magnitude << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36)  # 2^120
    return sign * ((magnitude << 21).to(tl.float32, bitcast=True) * 5.192296858534828e33)  # 2^112


@triton.jit
def _multiply_codes(
    inputs,
    input_scales,
    codes,
    scales,
    offsets,
    bias,
    output,
    num_rows,
    num_columns,
    num_inner,
    num_groups,
    code_stride,
    GROUP_SIZE: tl.constexpr,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    FLOAT8: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = rows < num_rows, columns < num_columns
    own_inputs = inputs + rows.to(tl.int64)[:, None] * num_inner
    own_codes = codes + columns.to(tl.int64)[None, :] * code_stride
    per_byte: tl.constexpr = 8 // BITS
    mask: tl.constexpr = 2**BITS - 1
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for group in range(num_groups):
        if IS_INTEGER:
            products = tl.zeros([ROWS, COLUMNS], tl.int32)
            input_sums = tl.zeros([ROWS], tl.int32)
        else:
            products = tl.zeros([ROWS, COLUMNS], tl.float32)
            input_sums = tl.zeros([ROWS], tl.float32)
        for begin in range(0, GROUP_SIZE, INNER):
            places = begin + tl.arange(0, INNER)
            inner = group * GROUP_SIZE + places
            is_inner = places < GROUP_SIZE
            x = tl.load(own_inputs + inner[None, :], mask=is_row[:, None] & is_inner[None, :], other=0)
            code = tl.load(
                own_codes + (inner // per_byte)[:, None], mask=is_inner[:, None] & is_column[None, :], other=ZERO
            )
            if BITS < 8:
                code = (code.to(tl.int32) >> ((inner % per_byte) * BITS)[:, None]) & mask
            if IS_INTEGER:
                numbers = (code.to(tl.int32) - ZERO).to(tl.int8)
                products = tl.dot(x, numbers, products, out_dtype=tl.int32)
                input_sums += tl.sum(x.to(tl.int32), 1)
            else:
                if FLOAT8 == "":  # noqa: SIM108
                    values = code.to(tl.float32) - ZERO
                else:
                    values = float8_number(code, FLOAT8 == "e4m3")
                if IS_INTERPRETED:  # the interpreter multiplies bfloat16 wrongly
                    products += tl.dot(x.to(tl.float32), values, input_precision="ieee")
                else:
                    products += tl.dot(x, values.to(x.dtype), input_precision="ieee")
                input_sums += tl.sum(x.to(tl.float32), 1)
        scale = tl.load(scales + columns * num_groups + group, mask=is_column, other=0.0)
        scaled = products.to(tl.float32) * scale[None, :]
        if HAS_OFFSETS:
            offset = tl.load(offsets + columns * num_groups + group, mask=is_column, other=0.0)
            scaled += offset[None, :] * input_sums.to(tl.float32)[:, None]
        if IS_INTEGER:
            scaled *= tl.load(input_scales + rows * num_groups + group, mask=is_row, other=0.0)[:, None]
        sums += scaled
    if HAS_BIAS:
        sums += tl.load(bias + columns, mask=is_column, other=0.0)[None, :]
    own_output = output + rows.to(tl.int64)[:, None] * num_columns + columns[None, :]
    tl.store(own_output, sums.to(output.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


@triton.jit
def _round_span(inputs, codes, scales, SPAN: tl.constexpr, PADDED: tl.constexpr):
    row, span = tl.program_id(0), tl.program_id(1)
    places = tl.arange(0, PADDED)
    is_there = places < SPAN
    begin = (row.to(tl.int64) * tl.num_programs(1) + span) * SPAN
    x = tl.load(inputs + begin + places, mask=is_there, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0) / 127.0, 1.1754943508222875e-38)
    code = (x / scale + 12582912.0) - 12582912.0  # to nearest, ties to even
    code = tl.minimum(tl.maximum(code, -127.0), 127.0)
    code = tl.where(code == code, code, 0.0)
    tl.store(codes + begin + places, code.to(tl.int8), mask=is_there)
    tl.store(scales + row * tl.num_programs(1) + span, scale + tl.sum(x * 0.0, 0))
