"""What tests of attention share: sequences scattered over a paged cache, and a backend compared with the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.step_layout import StepLayout

TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """One step of a layer: queries [T, H, D], cache [2, N, P, K, D]."""

    queries: torch.Tensor
    cache: torch.Tensor
    layout: StepLayout
    rule: AttentionRule

    def attend(self, backend: AttentionBackend) -> torch.Tensor:
        return backend.attend(self.queries, self.cache[0], self.cache[1], self.layout, self.rule)


def make_layout(lengths: list[tuple[int, int]], *, block_size: int = 16) -> StepLayout:
    """(new tokens, context) of each sequence; blocks in random places, shared by nobody."""
    lengths = sorted(lengths, key=lambda pair: pair[0] > 1)
    longest = max(-(-context // block_size) for _, context in lengths)
    places = torch.randperm(len(lengths) * longest, dtype=torch.int32)
    starts = [0]
    for new, _ in lengths:
        starts.append(starts[-1] + new)
    contexts = [context for _, context in lengths]
    return StepLayout(
        positions=torch.cat([torch.arange(context - new, context) for new, context in lengths]),
        slots=torch.empty(0, dtype=torch.int64),
        block_tables=places.view(len(lengths), longest).contiguous(),
        context_lengths=torch.tensor(contexts, dtype=torch.int32),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        context_length_list=contexts,
        query_start_list=starts,
        num_single=sum(1 for new, _ in lengths if new == 1),
        block_size_tokens=block_size,
    )


def make_case(
    lengths: list[tuple[int, int]],
    *,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 64,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    seed: int = 1,
) -> AttentionCase:
    torch.manual_seed(seed)
    layout = make_layout(lengths, block_size=block_size)
    num_blocks = layout.block_tables.numel()
    return AttentionCase(
        queries=torch.randn(len(layout.positions), heads, head_size).to(dtype),
        cache=torch.randn(2, num_blocks, block_size, kv_heads, head_size).to(dtype),
        layout=layout,
        rule=AttentionRule(scale=scale or head_size**-0.5, window=window, soft_cap=soft_cap),
    )


def assert_equals_reference(backend: AttentionBackend, case: AttentionCase) -> None:
    tolerance = TOLERANCES[case.queries.dtype]
    found, expected = case.attend(backend), case.attend(ReferenceAttention())
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
