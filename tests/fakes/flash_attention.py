"""The flash-attn package's documented functions, computed the slow way, for machines without it.

Signatures and meaning as documented by flash-attn 2.8 (`flash_attn`) and by version 3 (`flash_attn_interface`):
causal masks aligned to the bottom right, `window_size` (left, right) relative to that diagonal, cumulative lengths
in int32. What the real ones refuse (block sizes, number types, strides) is refused here, too.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch


def flash_attn_2() -> ModuleType:
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    module.flash_attn_with_kvcache = flash_attn_with_kvcache_2  # type: ignore[attr-defined]
    return module


def flash_attn_3() -> ModuleType:
    module = ModuleType("flash_attn_interface")
    module.flash_attn_with_kvcache = flash_attn_with_kvcache_3  # type: ignore[attr-defined]
    return module


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
) -> torch.Tensor:
    """q [total, H, D]; k and v are the paged cache, [N, P, K, D], when there is a block table."""
    assert dropout_p == 0.0
    assert alibi_slopes is None
    assert not deterministic
    assert not return_attn_probs
    assert block_table is not None
    assert k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    _check(q, cu_seqlens_q, cu_seqlens_k, block_table)
    query_ends, key_ends = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    assert query_ends[0] == key_ends[0] == 0
    assert query_ends[-1] == q.shape[0]
    assert len(query_ends) == len(key_ends) == block_table.shape[0] + 1
    output = torch.empty_like(q)
    for row in range(block_table.shape[0]):
        begin, end, length = query_ends[row], query_ends[row + 1], key_ends[row + 1] - key_ends[row]
        assert end - begin <= max_seqlen_q
        assert length <= max_seqlen_k
        keys, values = _cached(k, v, block_table[row], length)
        output[begin:end] = _attend(q[begin:end], keys, values, softmax_scale, causal, window_size, softcap)
    return output


def flash_attn_with_kvcache_2(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: Any = None,
    v: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    cache_seqlens: torch.Tensor | None = None,
    cache_batch_idx: Any = None,
    cache_leftpad: Any = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Any = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> torch.Tensor:
    """q [batch, new, H, D] -> the same shape."""
    assert block_table is not None
    assert k_cache.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    unused = (k, v, rotary_cos, rotary_sin, cache_batch_idx, cache_leftpad, alibi_slopes)
    assert all(value is None for value in unused)
    assert not return_softmax_lse
    return _with_cache(q, k_cache, v_cache, cache_seqlens, block_table, softmax_scale, causal, window_size, softcap)


def flash_attn_with_kvcache_3(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: Any = None,
    v: Any = None,
    qv: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    cache_seqlens: torch.Tensor | None = None,
    cache_batch_idx: Any = None,
    cache_leftpad: Any = None,
    page_table: torch.Tensor | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    cu_seqlens_k_new: Any = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: Any = None,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    scheduler_metadata: Any = None,
    num_splits: int = 0,
    pack_gqa: Any = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> torch.Tensor:
    """q [batch, new, H, D], or [total, H, D] with `cu_seqlens_q`; the page table may have pages of any size."""
    unused = (k, v, qv, rotary_cos, rotary_sin, cache_batch_idx, cache_leftpad, cu_seqlens_k_new, rotary_seqlens)
    assert all(value is None for value in (*unused, q_descale, k_descale, v_descale, scheduler_metadata, pack_gqa))
    assert (attention_chunk, num_splits, sm_margin, return_softmax_lse) == (0, 0, 0, False)
    assert page_table is not None
    assert cache_seqlens is not None
    options = (softmax_scale, causal, window_size, softcap)
    if cu_seqlens_q is None:
        return _with_cache(q, k_cache, v_cache, cache_seqlens, page_table, *options)
    assert max_seqlen_q is not None
    _check(q, cu_seqlens_q, cache_seqlens, page_table)
    ends, output = cu_seqlens_q.tolist(), torch.empty_like(q)
    assert ends[-1] == q.shape[0]
    for row, length in enumerate(cache_seqlens.tolist()):
        begin, end = ends[row], ends[row + 1]
        assert end - begin <= max_seqlen_q
        keys, values = _cached(k_cache, v_cache, page_table[row], length)
        output[begin:end] = _attend(q[begin:end], keys, values, *options)
    return output


def _with_cache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    cache_seqlens: torch.Tensor | None,
    table: torch.Tensor,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
) -> torch.Tensor:
    assert cache_seqlens is not None
    _check(q, cache_seqlens, cache_seqlens, table)
    assert q.dim() == 4
    assert q.shape[0] == len(cache_seqlens) == table.shape[0]
    rows = [
        _attend(queries, *_cached(k_cache, v_cache, table[row], length), softmax_scale, causal, window_size, softcap)
        for row, (queries, length) in enumerate(zip(q, cache_seqlens.tolist(), strict=True))
    ]
    return torch.stack(rows)


def _check(q: torch.Tensor, *indices: torch.Tensor) -> None:
    assert q.dtype in (torch.float16, torch.bfloat16), "FlashAttention only supports fp16 and bf16"
    assert q.stride(-1) == 1
    for index in indices:
        assert index.dtype == torch.int32
        assert index.stride(-1) == 1


def _cached(
    k_cache: torch.Tensor, v_cache: torch.Tensor, table: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    pages = table.long()
    return k_cache[pages].flatten(0, 1)[:length], v_cache[pages].flatten(0, 1)[:length]


def _attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
) -> torch.Tensor:
    """queries [n, H, D], keys and values [m, K, D] -> [n, H, D]; a row that sees nothing is zero."""
    num_queries, num_keys = queries.shape[0], keys.shape[0]
    group = queries.shape[1] // keys.shape[1]
    scale = queries.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("nhd,mhd->hnm", queries.float(), keys.float().repeat_interleave(group, 1)) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    diagonal = torch.arange(num_queries)[:, None] + num_keys - num_queries
    columns = torch.arange(num_keys)[None, :]
    left, right = window_size
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool)
    if causal or right >= 0:
        seen &= columns <= diagonal + (0 if causal else right)
    if left >= 0:
        seen &= columns >= diagonal - left
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1).nan_to_num(0.0)
    return torch.einsum("hnm,mhd->nhd", weights, values.float().repeat_interleave(group, 1)).to(queries.dtype)
