"""The steps that the attention benchmark computes, and the least work in them: bytes to read, products to make."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.step_layout import StepLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """One layer. The defaults are Qwen2-0.5B's; decode is `batch_size` sequences with one new token each."""

    num_query_heads: int = 14
    num_kv_heads: int = 2
    head_size: int = 64
    block_size_tokens: int = 16
    batch_size: int = 8

    def prefill_operations(self, length: int) -> float:
        """Two products of half a square for every head: causal."""
        return 4.0 * self.num_query_heads * self.head_size * length * (length + 1) / 2

    def decode_bytes(self, length: int, dtype: torch.dtype) -> float:
        """Every sequence's keys and values once."""
        return 2.0 * self.batch_size * length * self.num_kv_heads * self.head_size * dtype.itemsize


class AttentionStep:
    """One step over random keys and values; blocks in a random order, as a busy cache has them."""

    def __init__(
        self, shape: AttentionShape, *, length: int, is_prefill: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        generator = torch.Generator().manual_seed(length)
        num_sequences = 1 if is_prefill else shape.batch_size
        num_new = length if is_prefill else 1
        num_columns = -(-length // shape.block_size_tokens)
        order = torch.randperm(num_sequences * num_columns, generator=generator, dtype=torch.int32)
        cells = (2, order.numel(), shape.block_size_tokens, shape.num_kv_heads, shape.head_size)
        rows = num_sequences * num_new
        starts = list(range(0, rows + 1, num_new))
        positions = torch.arange(length - num_new, length).repeat(num_sequences)
        self._keys, self._values = torch.randn(cells, generator=generator).to(device, dtype)
        self._queries = torch.randn(rows, shape.num_query_heads, shape.head_size, generator=generator).to(device, dtype)
        self._rule = AttentionRule(scale=shape.head_size**-0.5)
        self._layout = StepLayout(
            positions=positions.to(device),
            slots=torch.zeros(rows, dtype=torch.int64, device=device),
            block_tables=order.view(num_sequences, num_columns).to(device),
            context_lengths=torch.full((num_sequences,), length, dtype=torch.int32, device=device),
            query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
            context_length_list=[length] * num_sequences,
            query_start_list=starts,
            num_single=num_sequences if num_new == 1 else 0,
            block_size_tokens=shape.block_size_tokens,
        )

    def attend(self, backend: AttentionBackend) -> torch.Tensor:
        return backend.attend(self._queries, self._keys, self._values, self._layout, self._rule)
