"""One new token a sequence against its blocks, the context cut into splits that run side by side, then combined.

A program reads one split of one kv head for the whole group of query heads that share it. Every length is read on
the device, so that a launch recorded in a CUDA graph serves any lengths; rows with context 0 (padding) give zeros.
Sources: Dao, "FlashAttention-2" (2023), online softmax; Dao, Haziza, Massa, Sizov, "Flash-Decoding" (2023), splits
and their combination by log-sum-exp; Kwon et al. (2023), blocks. Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl

from services.worker.engine.triton_kernels.availability import is_interpreted
from services.worker.engine.triton_kernels.score_math import LOG2_E, capped

_MIN_DOT_ROWS = 16
"""Tensor cores multiply at least 16 rows; smaller groups are padded."""
_MAX_SPLITS = 32
_MIN_SPLIT_TOKENS = 256


def paged_decode(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    context_lengths: torch.Tensor,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    num_splits: int | None = None,
    tile_tokens: int = 64,
) -> torch.Tensor:
    """queries [S, H, D]; keys, values [N, P, K, D]; block_tables [S, B] and context_lengths [S] int32 -> [S, H, D]."""
    num_sequences, num_heads, head_size = queries.shape
    block_size, num_kv_heads = keys.shape[1], keys.shape[2]
    if num_splits is None:
        capacity = min(block_tables.shape[1] * block_size, window or block_tables.shape[1] * block_size)
        num_splits = choose_splits(num_sequences * num_kv_heads, capacity, num_processors(queries.device))
    partials = torch.empty(
        (num_sequences, num_heads, num_splits, head_size), dtype=torch.float32, device=queries.device
    )
    log_sums = torch.empty((num_sequences, num_heads, num_splits), dtype=torch.float32, device=queries.device)
    output = torch.empty_like(queries)
    group = num_heads // num_kv_heads
    _attend_split[(num_sequences, num_kv_heads, num_splits)](
        queries,
        keys,
        values,
        block_tables,
        context_lengths,
        partials,
        log_sums,
        block_tables.stride(0),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        scale,
        soft_cap or 0.0,
        window or 0,
        NUM_KV_HEADS=num_kv_heads,
        NUM_SPLITS=num_splits,
        GROUP=group,
        GROUP_PADDED=max(_MIN_DOT_ROWS, triton.next_power_of_2(group)),
        HEAD=head_size,
        HEAD_PADDED=max(16, triton.next_power_of_2(head_size)),
        BLOCK=block_size,
        TILE=tile_tokens,
        HAS_CAP=soft_cap is not None,
        IS_INTERPRETED=is_interpreted(),
    )
    _combine_splits[(num_sequences * num_heads,)](
        partials,
        log_sums,
        output,
        NUM_SPLITS=num_splits,
        SPLITS_PADDED=triton.next_power_of_2(num_splits),
        HEAD=head_size,
        HEAD_PADDED=max(16, triton.next_power_of_2(head_size)),
    )
    return output


def choose_splits(num_programs: int, capacity_tokens: int, num_processors: int) -> int:
    """Enough programs to fill the card twice, but splits long enough to be worth their combination.

    `capacity_tokens` is what a sequence may see at most, from shapes alone: a graph's launch may not depend on lengths.
    """
    wanted = -(-2 * num_processors // num_programs)
    return max(1, min(wanted, capacity_tokens // _MIN_SPLIT_TOKENS, _MAX_SPLITS))


def num_processors(device: torch.device) -> int:
    if device.type != "cuda" or not torch.cuda.is_available():
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _attend_split(
    queries,
    keys,
    values,
    block_tables,
    context_lengths,
    partials,
    log_sums,
    table_stride,
    block_stride,
    position_stride,
    head_stride,
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
    IS_INTERPRETED: tl.constexpr,
):
    sequence, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_lengths + sequence)
    first = tl.where(window > 0, tl.maximum(context - window, 0), 0)
    split_tokens = tl.cdiv(tl.cdiv(context - first, TILE), NUM_SPLITS) * TILE
    begin = first + split * split_tokens
    end = tl.minimum(begin + split_tokens, context)

    rows = tl.arange(0, GROUP_PADDED)
    dimensions = tl.arange(0, HEAD_PADDED)
    heads = kv_head * GROUP + rows
    is_cell = (rows < GROUP)[:, None] & (dimensions < HEAD)[None, :]
    query_rows = sequence * NUM_KV_HEADS * GROUP + heads
    query = tl.load(queries + query_rows[:, None] * HEAD + dimensions[None, :], mask=is_cell, other=0.0)
    if IS_INTERPRETED:  # the interpreter multiplies bfloat16 wrongly
        query = query.to(tl.float32)

    highest = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    attended = tl.zeros([GROUP_PADDED, HEAD_PADDED], tl.float32)
    for start in range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        is_seen = positions < end
        blocks = tl.load(block_tables + sequence * table_stride + positions // BLOCK, mask=is_seen, other=0)
        cells = blocks.to(tl.int64) * block_stride + (positions % BLOCK) * position_stride + kv_head * head_stride
        is_read = is_seen[:, None] & (dimensions < HEAD)[None, :]
        key = tl.load(keys + cells[:, None] + dimensions[None, :], mask=is_read, other=0.0)
        value = tl.load(values + cells[:, None] + dimensions[None, :], mask=is_read, other=0.0)
        if IS_INTERPRETED:
            key = key.to(tl.float32)
            value = value.to(tl.float32)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        if HAS_CAP:
            scores = capped(scores, soft_cap)
        scores = tl.where(is_seen[None, :], scores * LOG2_E, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - new_highest[:, None])
        shrink = tl.exp2(highest - new_highest)
        total = total * shrink + tl.sum(weights, 1)
        attended = attended * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = new_highest

    is_empty = begin >= end
    divisor = tl.where(is_empty, 1.0, total)
    places = query_rows * NUM_SPLITS + split
    tl.store(partials + places[:, None] * HEAD + dimensions[None, :], attended / divisor[:, None], mask=is_cell)
    tl.store(log_sums + places, tl.where(is_empty, float("-inf"), highest + tl.log2(divisor)), mask=rows < GROUP)


@triton.jit
def _combine_splits(
    partials,
    log_sums,
    output,
    NUM_SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
):
    row = tl.program_id(0)
    splits = tl.arange(0, SPLITS_PADDED)
    dimensions = tl.arange(0, HEAD_PADDED)
    logs = tl.load(log_sums + row * NUM_SPLITS + splits, mask=splits < NUM_SPLITS, other=float("-inf"))
    highest = tl.max(logs, 0)
    weights = tl.exp2(logs - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(weights, 0)
    places = row * NUM_SPLITS + splits
    is_read = (splits < NUM_SPLITS)[:, None] & (dimensions < HEAD)[None, :]
    parts = tl.load(partials + places[:, None] * HEAD + dimensions[None, :], mask=is_read, other=0.0)
    combined = tl.sum(parts * weights[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(output + row * HEAD + dimensions, combined.to(output.dtype.element_ty), mask=dimensions < HEAD)
