"""Attention on CPU through our C kernel: single tokens read their blocks where they lie, no copy.

Chunks of a prompt are matrix products and stay with torch.
"""

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.gather_attention import attend_chunk
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.native.library import Kernels


class NativeAttention:
    name = "native"
    is_capturable = False

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        num_tokens, num_query_heads, head_size = queries.shape
        _, block_size_tokens, num_kv_heads, _ = keys.shape
        output = torch.empty((num_tokens, num_query_heads * head_size), dtype=queries.dtype)
        if layout.num_single:
            self._kernels.paged_attention(
                output.data_ptr(),
                queries.data_ptr(),
                keys.data_ptr(),
                values.data_ptr(),
                layout.block_tables.data_ptr(),
                layout.context_lengths.data_ptr(),
                layout.num_single,
                layout.block_tables.shape[1],
                block_size_tokens,
                num_query_heads,
                num_kv_heads,
                head_size,
                rule.window or 0,
                rule.scale,
                rule.soft_cap or 0.0,
            )
        for row in range(layout.num_single, layout.num_sequences):
            begin, end = layout.query_start_list[row], layout.query_start_list[row + 1]
            output[begin:end] = attend_chunk(queries[begin:end], keys, values, layout, row, rule)
        return output
