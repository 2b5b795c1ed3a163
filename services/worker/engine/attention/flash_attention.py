"""Attention through the flash-attn package, versions 2 and 3, on block tables. Imported only where it is chosen.

Both align the causal mask to the bottom right: the last new token sees the whole context. A window is (left, right)
neighbours besides the token itself; -1 means all of them. Sources: Dao 2023 (FlashAttention-2); Shah et al. 2024 (3).
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.step_layout import StepLayout

MODULES = {2: "flash_attn", 3: "flash_attn_interface"}
BLOCK_MULTIPLES = {2: 256, 3: 1}
"""Version 2 reads blocks of a multiple of 256 positions only."""
MIN_CAPABILITIES = {2: (8, 0), 3: (9, 0)}
MAX_HEAD_SIZE = 256


def import_flash(version: int) -> Any:
    """Raises ImportError, also for a package that is there but was built for another torch or CUDA."""
    try:
        return importlib.import_module(MODULES[version])
    except OSError as error:
        raise ImportError(str(error)) from error


class FlashAttention2:
    name = "flash-attn-2"
    is_capturable = True

    def __init__(self, module: Any) -> None:
        self._with_cache = module.flash_attn_with_kvcache
        self._varlen = module.flash_attn_varlen_func
        self._known: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        num_single = layout.num_single
        options = _options(rule)
        output = torch.empty_like(queries)
        if num_single:
            output[:num_single] = self._with_cache(
                queries[:num_single, None],  # [S, 1, H, D]
                keys,
                values,
                cache_seqlens=layout.context_lengths[:num_single],
                block_table=layout.block_tables[:num_single],
                **options,
            )[:, 0]
        if num_single < layout.num_sequences:
            query_ends, context_ends = self._chunk_ends(layout)
            output[num_single:] = self._varlen(
                queries[num_single:],
                keys,
                values,
                cu_seqlens_q=query_ends,
                cu_seqlens_k=context_ends,
                max_seqlen_q=longest_chunk(layout),
                max_seqlen_k=max(layout.context_length_list[num_single:]),
                block_table=layout.block_tables[num_single:],
                **options,
            )
        return output.flatten(1)

    def _chunk_ends(self, layout: StepLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """Cumulative new tokens and contexts of the chunks, [S' + 1] int32 each: once a step, not once a layer."""
        if self._known is None or self._known[0] is not layout.context_lengths:
            chunks = slice(layout.num_single, None)
            contexts = layout.context_lengths[chunks].cumsum(0, dtype=torch.int32)
            self._known = (
                layout.context_lengths,
                layout.query_starts[chunks] - layout.num_single,
                torch.cat([contexts.new_zeros(1), contexts]),
            )
        return self._known[1], self._known[2]


class FlashAttention3:
    """One call does single tokens and chunks: its cache function takes queries of any lengths."""

    name = "flash-attn-3"
    is_capturable = True

    def __init__(self, module: Any) -> None:
        self._with_cache = module.flash_attn_with_kvcache

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        options = {"cache_seqlens": layout.context_lengths, "page_table": layout.block_tables, **_options(rule)}
        if layout.num_single == layout.num_sequences:
            output: torch.Tensor = self._with_cache(queries[:, None], keys, values, **options)
        else:
            output = self._with_cache(
                queries,
                keys,
                values,
                cu_seqlens_q=layout.query_starts,
                max_seqlen_q=longest_chunk(layout),
                **options,
            )
        return output.reshape(queries.shape[0], -1)


def longest_chunk(layout: StepLayout) -> int:
    """Most new tokens of a sequence in the step."""
    return max(end - begin for begin, end in itertools.pairwise(layout.query_start_list))


def _options(rule: AttentionRule) -> dict[str, Any]:
    return {
        "softmax_scale": rule.scale,
        "causal": True,
        "window_size": (-1, -1) if rule.window is None else (rule.window - 1, 0),
        "softcap": rule.soft_cap or 0.0,
    }
