"""Attention through torch's scaled_dot_product_attention, for single tokens too. Works on CPU and GPU.

It has no soft cap and no block tables: contexts are gathered, padded to the longest. Where torch carries
FlashAttention 2 for contiguous tensors, chunks without a mask use it.
"""

import torch
from torch.nn import functional

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.gather_attention import attend_chunk
from services.worker.engine.attention.step_layout import StepLayout


class SdpaAttention:
    name = "sdpa"
    is_capturable = False

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        assert rule.soft_cap is None, "selection leaves models with a soft cap to others"
        output = torch.empty_like(queries)
        if layout.num_single:
            output[: layout.num_single] = _attend_single(queries[: layout.num_single], keys, values, layout, rule)
        for row in range(layout.num_single, layout.num_sequences):
            begin, end = layout.query_start_list[row], layout.query_start_list[row + 1]
            chunk = attend_chunk(queries[begin:end], keys, values, layout, row, rule)
            output[begin:end] = chunk.view_as(output[begin:end])
        return output.flatten(1)


def _attend_single(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: StepLayout, rule: AttentionRule
) -> torch.Tensor:
    """queries [S, H, D] -> [S, H, D]; lengths are read on the device only."""
    num_sequences, num_query_heads, _ = queries.shape
    tables = layout.block_tables[:num_sequences].long()
    lengths = layout.context_lengths[:num_sequences, None]
    cells = torch.arange(tables.shape[1] * layout.block_size_tokens, device=queries.device)
    is_seen = cells < lengths  # [S, B * P]
    if rule.window is not None:
        is_seen = is_seen & (cells >= lengths - rule.window)
    group = num_query_heads // keys.shape[2]
    # What padding points at may be uninitialised: the mask is added to scores, and NaN plus -inf is NaN.
    is_hidden = ~is_seen[:, None, :, None]
    own_keys = _by_head(keys[tables], group).masked_fill(is_hidden, 0)
    own_values = _by_head(values[tables], group).masked_fill(is_hidden, 0)
    attended = functional.scaled_dot_product_attention(
        queries[:, :, None], own_keys, own_values, attn_mask=is_seen[:, None, None], scale=rule.scale
    )
    return attended[:, :, 0]


def _by_head(gathered: torch.Tensor, group: int) -> torch.Tensor:
    """[S, B, P, K, D] -> [S, H, B * P, D]."""
    return gathered.flatten(1, 2).transpose(1, 2).repeat_interleave(group, dim=1)
