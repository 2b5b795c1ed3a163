"""Chunks of prompts against their blocks: several new tokens a sequence, causal, behind what is cached already.

A program does one tile of one sequence's new tokens for one query head. Sources: Dao, "FlashAttention-2" (2023);
Kwon et al. (2023), blocks; Agrawal et al., "Sarathi" (2023), chunks. Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl

from services.worker.engine.triton_kernels.availability import is_interpreted
from services.worker.engine.triton_kernels.score_math import LOG2_E, capped


def paged_prefill(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    context_lengths: torch.Tensor,
    query_starts: torch.Tensor,
    output: torch.Tensor,
    *,
    longest_chunk: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    tile_queries: int = 64,
    tile_tokens: int = 64,
) -> None:
    """queries and output [T, H, D]; keys, values [N, P, K, D]; of the S sequences to do: block_tables [S, B],
    context_lengths [S], query_starts [S + 1], all int32. Writes the rows from query_starts[0] on.
    """
    num_heads, head_size = queries.shape[1], queries.shape[2]
    num_tiles = -(-longest_chunk // tile_queries)
    _attend_tile[(num_tiles, context_lengths.shape[0], num_heads)](
        queries,
        keys,
        values,
        block_tables,
        context_lengths,
        query_starts,
        output,
        block_tables.stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        scale,
        soft_cap or 0.0,
        window or 0,
        NUM_HEADS=num_heads,
        GROUP=num_heads // keys.shape[2],
        HEAD=head_size,
        HEAD_PADDED=max(16, triton.next_power_of_2(head_size)),
        BLOCK=keys.shape[1],
        TILE_QUERIES=tile_queries,
        TILE=tile_tokens,
        HAS_CAP=soft_cap is not None,
        IS_INTERPRETED=is_interpreted(),
    )


@triton.jit
def _attend_tile(
    queries,
    keys,
    values,
    block_tables,
    context_lengths,
    query_starts,
    output,
    table_stride,
    block_stride,
    position_stride,
    head_stride,
    scale,
    soft_cap,
    window,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE_QUERIES: tl.constexpr,
    TILE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
):
    tile, sequence, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first_row = tl.load(query_starts + sequence)
    num_queries = tl.load(query_starts + sequence + 1) - first_row
    context = tl.load(context_lengths + sequence)
    cached = context - num_queries

    rows = tile * TILE_QUERIES + tl.arange(0, TILE_QUERIES)
    dimensions = tl.arange(0, HEAD_PADDED)
    own_positions = cached + rows
    is_cell = (rows < num_queries)[:, None] & (dimensions < HEAD)[None, :]
    places = ((first_row + rows) * NUM_HEADS + head)[:, None] * HEAD + dimensions[None, :]
    query = tl.load(queries + places, mask=is_cell, other=0.0)
    if IS_INTERPRETED:  # the interpreter multiplies bfloat16 wrongly
        query = query.to(tl.float32)

    tile_begin = cached + tile * TILE_QUERIES
    begin = tl.where(window > 0, tl.maximum(tile_begin - window + 1, 0), 0)
    end = tl.where(tile * TILE_QUERIES < num_queries, tl.minimum(context, tile_begin + TILE_QUERIES), begin)
    highest = tl.full([TILE_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([TILE_QUERIES], tl.float32)
    attended = tl.zeros([TILE_QUERIES, HEAD_PADDED], tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        is_there = positions < end
        blocks = tl.load(block_tables + sequence * table_stride + positions // BLOCK, mask=is_there, other=0)
        cells = blocks.to(tl.int64) * block_stride + (positions % BLOCK) * position_stride
        cells += (head // GROUP) * head_stride
        is_read = is_there[:, None] & (dimensions < HEAD)[None, :]
        key = tl.load(keys + cells[:, None] + dimensions[None, :], mask=is_read, other=0.0)
        value = tl.load(values + cells[:, None] + dimensions[None, :], mask=is_read, other=0.0)
        if IS_INTERPRETED:
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_CAP:
            scores = capped(scores, soft_cap)
        ages = own_positions[:, None] - positions[None, :]
        is_seen = (ages >= 0) & is_there[None, :] & ((window == 0) | (ages < window))
        scores = tl.where(is_seen, scores * LOG2_E, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet has no highest score: -inf minus -inf is NaN.
        shift = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weights = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(highest - shift)
        total = total * shrink + tl.sum(weights, 1)
        attended = attended * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = new_highest

    attended = attended / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(output + places, attended.to(output.dtype.element_ty), mask=is_cell)
