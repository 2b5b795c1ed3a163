"""Attention on CUDA through our Triton kernels: blocks are read where they lie, by single tokens and chunks alike.

Importing this imports no Triton; making a `TritonAttention` does.
"""

from typing import Any

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.flash_attention import longest_chunk
from services.worker.engine.attention.step_layout import StepLayout


class TritonAttention:
    name = "triton"
    is_capturable = True

    def __init__(self) -> None:
        # Triton is only there where torch is the CUDA build.
        from services.worker.engine.triton_kernels.paged_decode import paged_decode
        from services.worker.engine.triton_kernels.paged_prefill import paged_prefill

        self._decode = paged_decode
        self._prefill = paged_prefill

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        num_single = layout.num_single
        tables, contexts = layout.block_tables, layout.context_lengths
        options: dict[str, Any] = {"scale": rule.scale, "window": rule.window, "soft_cap": rule.soft_cap}
        if num_single == layout.num_sequences:
            return self._decode(queries, keys, values, tables, contexts, **options).flatten(1)
        output = torch.empty_like(queries)
        if num_single:
            output[:num_single] = self._decode(
                queries[:num_single], keys, values, tables[:num_single], contexts[:num_single], **options
            )
        self._prefill(
            queries,
            keys,
            values,
            tables[num_single:],
            contexts[num_single:],
            layout.query_starts[num_single:],
            output,
            longest_chunk=longest_chunk(layout),
            **options,
        )
        return output.flatten(1)
