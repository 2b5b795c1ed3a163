"""Attention from torch's own operators: gather the blocks, then multiply. Works on every device.

Sequences with one new token are computed together, padded to the longest; chunks of a prompt one by one through
scaled_dot_product_attention. `enable_gqa` is avoided: on CPU it is five times slower than repeating the heads.
"""

import torch
from torch.nn import functional

from services.worker.engine.attention.step_layout import StepLayout


class GatherAttention:
    name = "gather"

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        scale: float,
    ) -> torch.Tensor:
        if layout.num_single == layout.num_sequences:
            return _attend_single(queries, keys, values, layout, scale)
        output = torch.empty_like(queries).flatten(1)
        if layout.num_single:
            single = queries[: layout.num_single]
            output[: layout.num_single] = _attend_single(single, keys, values, layout, scale)
        for row in range(layout.num_single, layout.num_sequences):
            begin, end = layout.query_start_list[row], layout.query_start_list[row + 1]
            output[begin:end] = attend_chunk(queries[begin:end], keys, values, layout, row, scale)
        return output


def _attend_single(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: StepLayout, scale: float
) -> torch.Tensor:
    """queries [S, H, D] -> [S, H * D]."""
    num_sequences, num_query_heads, head_size = queries.shape
    num_kv_heads = keys.shape[2]
    lengths = layout.context_lengths[:num_sequences]
    num_blocks = -(-max(layout.context_length_list[:num_sequences]) // layout.block_size_tokens)
    blocks = layout.block_tables[:num_sequences, :num_blocks].long()
    shape = (num_sequences, -1, num_kv_heads, head_size)
    own_keys = keys[blocks].view(shape).permute(0, 2, 3, 1)  # [S, K, D, B * P]
    own_values = values[blocks].view(shape).transpose(1, 2)  # [S, K, B * P, D]
    grouped = queries.view(num_sequences, num_kv_heads, -1, head_size)  # [S, K, H / K, D]
    scores = torch.matmul(grouped, own_keys).float() * scale
    cells = torch.arange(own_values.shape[2], device=queries.device)
    is_padding = (cells[None, :] >= lengths[:, None])[:, None, None, :]
    weights = scores.masked_fill_(is_padding, float("-inf")).softmax(dim=-1).to(queries.dtype)
    # What padding points at may be uninitialised: 0 * NaN is NaN, so the values are cleared, too.
    own_values = own_values.masked_fill(is_padding.transpose(2, 3), 0)
    return torch.matmul(weights, own_values).view(num_sequences, num_query_heads * head_size)


def attend_chunk(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: StepLayout,
    row: int,
    scale: float,
) -> torch.Tensor:
    """queries [n, H, D] of one sequence -> [n, H * D]."""
    context = layout.context_length_list[row]
    num_blocks = -(-context // layout.block_size_tokens)
    blocks = layout.block_tables[row, :num_blocks].long()
    group = queries.shape[1] // keys.shape[2]
    own_keys = _by_head(keys[blocks], context, group)
    own_values = _by_head(values[blocks], context, group)
    num_queries = queries.shape[0]
    start = context - num_queries
    mask = None
    if start:
        cells = torch.arange(context, device=queries.device)
        mask = cells[None, :] <= cells[start:, None]  # [n, context], true where it may look
    attended = functional.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        own_keys,
        own_values,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
    )  # [1, H, n, D]
    return attended[0].transpose(0, 1).reshape(num_queries, -1)


def _by_head(gathered: torch.Tensor, context: int, group: int) -> torch.Tensor:
    """[blocks, P, K, D] -> [1, H, context, D]."""
    flat = gathered.flatten(0, 1)[:context].transpose(0, 1)  # [K, context, D]
    return flat.repeat_interleave(group, dim=0)[None] if group > 1 else flat[None]
