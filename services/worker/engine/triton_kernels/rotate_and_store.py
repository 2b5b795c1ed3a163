"""Rotary embedding and the cache's new cells in one launch: queries and keys turn, keys and values go to their slots.

Source: Su et al. 2021 (RoFormer), halves paired as in GPT-NeoX. Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl


def rotate_and_store(
    projected: torch.Tensor,
    table: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    num_query_heads: int,
) -> torch.Tensor:
    """projected [T, (H + 2K) * D] -> rotated queries [T, H, D]; writes keys and values [N, P, K, D].

    `table` [positions, R] float32, cosines then sines; `positions` and `slots` [T] int64. Slot -1 is written nowhere
    (the padding of a CUDA graph's batch).
    """
    num_kv_heads, head_size = keys.shape[2], keys.shape[3]
    num_tokens, rotary_size = projected.shape[0], table.shape[1]
    queries = torch.empty((num_tokens, num_query_heads, head_size), dtype=projected.dtype, device=projected.device)
    _rotate_head[(num_tokens, num_query_heads + 2 * num_kv_heads)](
        projected,
        table,
        queries,
        keys,
        values,
        positions,
        slots,
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        QUERY_HEADS=num_query_heads,
        KV_HEADS=num_kv_heads,
        HEAD=head_size,
        HEAD_PADDED=triton.next_power_of_2(head_size),
        HALF=rotary_size // 2,
        BLOCK=keys.shape[1],
    )
    return queries


@triton.jit
def _rotate_head(
    projected,
    table,
    queries,
    keys,
    values,
    positions,
    slots,
    block_stride,
    position_stride,
    head_stride,
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token, head = tl.program_id(0), tl.program_id(1)
    dimensions = tl.arange(0, HEAD_PADDED)
    is_cell = dimensions < HEAD
    own = projected + (token.to(tl.int64) * (QUERY_HEADS + 2 * KV_HEADS) + head) * HEAD
    numbers = tl.load(own + dimensions, mask=is_cell, other=0.0).to(tl.float32)
    if HALF > 0:
        is_turning = (dimensions < 2 * HALF) & (head < QUERY_HEADS + KV_HEADS)
        is_first = dimensions < HALF
        partners = tl.load(own + tl.where(is_first, dimensions + HALF, dimensions - HALF), mask=is_turning, other=0.0)
        angles = table + tl.load(positions + token) * (2 * HALF) + tl.where(is_first, dimensions, dimensions - HALF)
        cosines = tl.load(angles, mask=is_turning, other=1.0)
        sines = tl.load(angles + HALF, mask=is_turning, other=0.0)
        numbers = numbers * cosines + tl.where(is_first, -1.0, 1.0) * partners.to(tl.float32) * sines
    turned = numbers.to(queries.dtype.element_ty)
    if head < QUERY_HEADS:
        tl.store(queries + (token.to(tl.int64) * QUERY_HEADS + head) * HEAD + dimensions, turned, mask=is_cell)
    else:
        slot = tl.load(slots + token)
        is_stored = is_cell & (slot >= 0)
        cell = (slot // BLOCK) * block_stride + (slot % BLOCK) * position_stride + dimensions
        if head < QUERY_HEADS + KV_HEADS:
            tl.store(keys + cell + (head - QUERY_HEADS) * head_stride, turned, mask=is_stored)
        else:
            tl.store(values + cell + (head - QUERY_HEADS - KV_HEADS) * head_stride, turned, mask=is_stored)
