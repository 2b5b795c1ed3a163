"""A cache in INT8, FP8 or INT4 cells: written, and read in registers by the attention of single tokens.

Cells lie as attention/cell_layout.py says, to the byte; a number that is read is rounded to the model's type first, as
every other way of attention reads it. Sources as in paged_decode.py, whose splits and their combination these are.
Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl

from services.worker.engine.triton_kernels.availability import is_interpreted
from services.worker.engine.triton_kernels.coded_matmul import float8_number
from services.worker.engine.triton_kernels.paged_decode import _combine_splits, choose_splits, num_processors
from services.worker.engine.triton_kernels.score_math import LOG2_E, capped

_MIN_DOT_ROWS = 16
_INT8: tl.constexpr = tl.constexpr(1)
_FP8: tl.constexpr = tl.constexpr(2)
_INT4: tl.constexpr = tl.constexpr(3)
_INT8_UPPER: tl.constexpr = tl.constexpr(4)
"""Of `CellFormat`; the last is written as INT8 is, and read by its upper halves."""


def write_cells(
    target: torch.Tensor, source: torch.Tensor, slots: torch.Tensor, *, cell_format: int, span: int
) -> None:
    """source [T, K, D] -> the cells `slots` [T] of target uint8 [N, P, K, bytes]. Slot -1 is written nowhere.

    `cell_format` is a `CellFormat`; INT4 has a scale for every `span` dimensions.
    """
    num_tokens, num_kv_heads, head_size = source.shape
    num_spans = triton.cdiv(head_size, span)
    _write_cell[(num_tokens, num_kv_heads)](
        target,
        source,
        slots,
        source.stride(0),
        source.stride(1),
        FORMAT=cell_format,
        HEAD=head_size,
        HALF_PADDED=triton.next_power_of_2(head_size // 2),
        NUM_SPANS=num_spans,
        SPANS_PADDED=triton.next_power_of_2(num_spans),
        SPAN=span,
        CELL_BYTES=target.shape[3],
    )


def attend_cells(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    context_lengths: torch.Tensor,
    *,
    cell_format: int,
    span: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    num_splits: int | None = None,
    tile_tokens: int = 64,
) -> torch.Tensor:
    """As `paged_decode`, on keys and values uint8 [N, P, K, bytes]."""
    num_sequences, num_heads, head_size = queries.shape
    block_size, num_kv_heads = keys.shape[1], keys.shape[2]
    if num_splits is None:
        capacity = min(block_tables.shape[1] * block_size, window or block_tables.shape[1] * block_size)
        num_splits = choose_splits(num_sequences * num_kv_heads, capacity, num_processors(queries.device))
    partials = queries.new_empty((num_sequences, num_heads, num_splits, head_size), dtype=torch.float32)
    log_sums = queries.new_empty((num_sequences, num_heads, num_splits), dtype=torch.float32)
    output = torch.empty_like(queries)
    group = num_heads // num_kv_heads
    padded = max(16, triton.next_power_of_2(head_size))
    _attend_split_of_cells[(num_sequences, num_kv_heads, num_splits)](
        queries,
        keys,
        values,
        block_tables,
        context_lengths,
        partials,
        log_sums,
        block_tables.stride(0),
        scale,
        soft_cap or 0.0,
        window or 0,
        NUM_KV_HEADS=num_kv_heads,
        NUM_SPLITS=num_splits,
        GROUP=group,
        GROUP_PADDED=max(_MIN_DOT_ROWS, triton.next_power_of_2(group)),
        HEAD=head_size,
        HEAD_PADDED=padded,
        BLOCK=block_size,
        TILE=tile_tokens,
        HAS_CAP=soft_cap is not None,
        FORMAT=cell_format,
        NUM_SPANS=triton.cdiv(head_size, span),
        SPAN=span,
        CELL_BYTES=keys.shape[3],
        IS_INTERPRETED=is_interpreted(),
    )
    _combine_splits[(num_sequences * num_heads,)](
        partials,
        log_sums,
        output,
        NUM_SPLITS=num_splits,
        SPLITS_PADDED=triton.next_power_of_2(num_splits),
        HEAD=head_size,
        HEAD_PADDED=padded,
    )
    return output


@triton.jit
def _wide(place, mask):
    """Four bytes, lowest first, wherever they lie -> float32."""
    bits = tl.load(place, mask=mask, other=0).to(tl.int32)
    bits = bits | (tl.load(place + 1, mask=mask, other=0).to(tl.int32) << 8)
    bits = bits | (tl.load(place + 2, mask=mask, other=0).to(tl.int32) << 16)
    bits = bits | (tl.load(place + 3, mask=mask, other=0).to(tl.int32) << 24)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _short(place, mask):
    """Two bytes of a bfloat16 -> float32."""
    bits = tl.load(place, mask=mask, other=0).to(tl.int32)
    bits = bits | (tl.load(place + 1, mask=mask, other=0).to(tl.int32) << 8)
    return (bits << 16).to(tl.float32, bitcast=True)


@triton.jit
def _read_cells(
    cells,
    places,
    is_seen,
    dimensions,
    FORMAT: tl.constexpr,
    HEAD: tl.constexpr,
    NUM_SPANS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """places [tokens] int64: bytes from `cells` on -> [tokens, dimensions] float32."""
    half: tl.constexpr = HEAD // 2
    own = cells + places[:, None]
    is_read = is_seen[:, None] & (dimensions < HEAD)[None, :]
    if FORMAT == _FP8:
        code = tl.load(own + dimensions[None, :], mask=is_read, other=0)
        return float8_number(code, True) * _wide(cells + places + HEAD, is_seen)[:, None]
    first = (dimensions < half)[None, :]
    byte = (dimensions % half)[None, :]
    shift = tl.where(first, 0, 4)
    upper = (tl.load(own + byte, mask=is_read, other=0).to(tl.int32) >> shift) & 15
    if FORMAT == _INT8:
        lower = (tl.load(own + half + byte, mask=is_read, other=0).to(tl.int32) >> shift) & 15
        return ((upper << 4 | lower) - 128).to(tl.float32) * _wide(cells + places + HEAD, is_seen)[:, None]
    if FORMAT == _INT8_UPPER:
        return ((upper << 4).to(tl.float32) - 120.5) * _wide(cells + places + HEAD, is_seen)[:, None]
    span = own + half + 2 * (dimensions // SPAN)[None, :]
    return upper.to(tl.float32) * _short(span, is_read) + _short(span + 2 * NUM_SPANS, is_read)


@triton.jit
def _attend_split_of_cells(
    queries,
    keys,
    values,
    block_tables,
    context_lengths,
    partials,
    log_sums,
    table_stride,
    scale,
    soft_cap,
    window,
    NUM_KV_HEADS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    FORMAT: tl.constexpr,
    NUM_SPANS: tl.constexpr,
    SPAN: tl.constexpr,
    CELL_BYTES: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_lengths + sequence)
    seen_from = tl.where(window > 0, tl.maximum(context - window, 0), 0)
    split_tokens = tl.cdiv(tl.cdiv(context - seen_from, TILE), NUM_SPLITS) * TILE
    begin = seen_from + split * split_tokens
    end = tl.minimum(begin + split_tokens, context)

    rows = tl.arange(0, GROUP_PADDED)
    dimensions = tl.arange(0, HEAD_PADDED)
    is_cell = (rows < GROUP)[:, None] & (dimensions < HEAD)[None, :]
    query_rows = sequence * NUM_KV_HEADS * GROUP + kv_head * GROUP + rows
    query = tl.load(queries + query_rows[:, None] * HEAD + dimensions[None, :], mask=is_cell, other=0.0)
    highest = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    attended = tl.zeros([GROUP_PADDED, HEAD_PADDED], tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        is_seen = positions < end
        blocks = tl.load(block_tables + sequence * table_stride + positions // BLOCK, mask=is_seen, other=0)
        slots = blocks.to(tl.int64) * BLOCK + positions % BLOCK
        places = (slots * NUM_KV_HEADS + kv_head) * CELL_BYTES
        key = _read_cells(keys, places, is_seen, dimensions, FORMAT, HEAD, NUM_SPANS, SPAN).to(query.dtype)
        value = _read_cells(values, places, is_seen, dimensions, FORMAT, HEAD, NUM_SPANS, SPAN).to(query.dtype)
        if IS_INTERPRETED:  # the interpreter multiplies bfloat16 wrongly
            scores = tl.dot(query.to(tl.float32), tl.trans(key.to(tl.float32)), input_precision="ieee") * scale
        else:
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_CAP:
            scores = capped(scores, soft_cap)
        scores = tl.where(is_seen[None, :], scores * LOG2_E, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - new_highest[:, None])
        shrink = tl.exp2(highest - new_highest)
        total = total * shrink + tl.sum(weights, 1)
        if IS_INTERPRETED:
            added = tl.dot(weights, value.to(tl.float32), input_precision="ieee")
        else:
            added = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        attended = attended * shrink[:, None] + added
        highest = new_highest

    is_empty = begin >= end
    divisor = tl.where(is_empty, 1.0, total)
    split_rows = query_rows * NUM_SPLITS + split
    tl.store(partials + split_rows[:, None] * HEAD + dimensions[None, :], attended / divisor[:, None], mask=is_cell)
    tl.store(log_sums + split_rows, tl.where(is_empty, float("-inf"), highest + tl.log2(divisor)), mask=rows < GROUP)


@triton.jit
def _nearest(x):
    """To nearest, ties to even, for less than 2^22 in magnitude; what is not a number becomes 0."""
    code = (x + 12582912.0) - 12582912.0
    return tl.where(code == code, code, 0.0)


@triton.jit
def _to_float8(x):
    """|x| of at most 448 -> the byte of the nearest E4M3 number, ties to even."""
    magnitude = tl.where(x == x, tl.abs(x), 0.0)
    bits = (magnitude * 7.52316384526264e-37).to(tl.int32, bitcast=True)  # 2^-120: the exponents of E4M3
    coarse = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20
    fine = _nearest(magnitude * 512.0).to(tl.int32)  # below 2^-6 the steps are 2^-9 wide
    code = tl.where(magnitude < 0.015625, fine, coarse)
    return code | tl.where(x.to(tl.int32, bitcast=True) < 0, 128, 0)


@triton.jit
def _short_bits(x):
    """The nearest bfloat16's 16 bits, ties to even: written out, the interpreter cuts them off."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(x == x, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF, 0x7FC0)


@triton.jit
def _spans_of(own, dimensions, HEAD: tl.constexpr, SPAN: tl.constexpr):
    """Lowest, scale and poison of the span of every dimension, as they are stored: rounded to bfloat16."""
    inside = (dimensions // SPAN * SPAN)[:, None] + tl.arange(0, SPAN)[None, :]
    inside = tl.minimum(inside, HEAD - 1)  # the last of a short span again: changes no range
    x = tl.load(own + tl.minimum(inside, HEAD - 1)).to(tl.float32)
    lowest = (_short_bits(tl.min(x, 1)) << 16).to(tl.float32, bitcast=True)
    scale = tl.maximum((tl.max(x, 1) - lowest) / 15.0, 1.1754943508222875e-38)
    scale = (_short_bits(scale) << 16).to(tl.float32, bitcast=True)
    return lowest, scale, tl.sum(x * 0.0, 1)


@triton.jit
def _store_short(place, x, mask):
    bits = _short_bits(x)
    tl.store(place, (bits & 255).to(tl.uint8), mask=mask)
    tl.store(place + 1, ((bits >> 8) & 255).to(tl.uint8), mask=mask)


@triton.jit
def _span_codes(own, dimensions, is_there, HEAD: tl.constexpr, SPAN: tl.constexpr):
    lowest, scale, _ = _spans_of(own, dimensions, HEAD, SPAN)
    x = tl.load(own + dimensions, mask=is_there, other=0.0).to(tl.float32)
    return tl.minimum(tl.maximum(_nearest((x - lowest) / scale), 0.0), 15.0).to(tl.int32)


@triton.jit
def _write_cell(
    target,
    source,
    slots,
    token_stride,
    head_stride,
    FORMAT: tl.constexpr,
    HEAD: tl.constexpr,
    HALF_PADDED: tl.constexpr,
    NUM_SPANS: tl.constexpr,
    SPANS_PADDED: tl.constexpr,
    SPAN: tl.constexpr,
    CELL_BYTES: tl.constexpr,
):
    token, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + token)
    if slot >= 0:
        half: tl.constexpr = HEAD // 2
        own = source + token.to(tl.int64) * token_stride + head * head_stride
        cell = target + (slot * tl.num_programs(1) + head) * CELL_BYTES
        places = tl.arange(0, HALF_PADDED)
        is_there = places < half
        if FORMAT != _INT4:
            first = tl.load(own + places, mask=is_there, other=0.0).to(tl.float32)
            second = tl.load(own + half + places, mask=is_there, other=0.0).to(tl.float32)
            largest = tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(second), 0))
            limit: tl.constexpr = 448.0 if FORMAT == _FP8 else 127.0
            scale = tl.maximum(largest / limit, 1.1754943508222875e-38)
            scale += tl.sum(first * 0.0, 0) + tl.sum(second * 0.0, 0)
            first = tl.minimum(tl.maximum(first / scale, -limit), limit)
            second = tl.minimum(tl.maximum(second / scale, -limit), limit)
            if FORMAT == _FP8:
                tl.store(cell + places, _to_float8(first).to(tl.uint8), mask=is_there)
                tl.store(cell + half + places, _to_float8(second).to(tl.uint8), mask=is_there)
            else:
                one, two = _nearest(first).to(tl.int32) + 128, _nearest(second).to(tl.int32) + 128
                tl.store(cell + places, (one >> 4 | (two & 0xF0)).to(tl.uint8), mask=is_there)
                tl.store(cell + half + places, ((one & 15) | ((two & 15) << 4)).to(tl.uint8), mask=is_there)
            shifts = tl.arange(0, 4) * 8
            bits = scale.to(tl.int32, bitcast=True)
            tl.store(cell + HEAD + tl.arange(0, 4), ((bits >> shifts) & 255).to(tl.uint8))
        else:
            one = _span_codes(own, places, is_there, HEAD, SPAN)
            two = _span_codes(own, places + half, is_there, HEAD, SPAN)
            tl.store(cell + places, (one | (two << 4)).to(tl.uint8), mask=is_there)
            spans = tl.arange(0, SPANS_PADDED)
            lowest, scale, poison = _spans_of(own, spans * SPAN, HEAD, SPAN)
            _store_short(cell + half + 2 * spans, scale + poison, spans < NUM_SPANS)
            _store_short(cell + half + 2 * (NUM_SPANS + spans), lowest, spans < NUM_SPANS)
