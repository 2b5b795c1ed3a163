"""Attention from torch's own operators: gather the blocks, then multiply. Works on every device.

Sequences with one new token are computed together, padded to the longest; chunks of a prompt one by one through
scaled_dot_product_attention, or by hand where scores have a soft cap. Blocks before a sliding window are not read.
`enable_gqa` is avoided: on CPU it is five times slower than repeating the heads.
"""

import torch
from torch.nn import functional

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.step_layout import StepLayout


class GatherAttention:
    name = "gather"
    is_capturable = False

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        if layout.num_single == layout.num_sequences:
            return _attend_single(queries, keys, values, layout, rule)
        output = torch.empty_like(queries).flatten(1)
        if layout.num_single:
            single = queries[: layout.num_single]
            output[: layout.num_single] = _attend_single(single, keys, values, layout, rule)
        for row in range(layout.num_single, layout.num_sequences):
            begin, end = layout.query_start_list[row], layout.query_start_list[row + 1]
            output[begin:end] = attend_chunk(queries[begin:end], keys, values, layout, row, rule)
        return output


def _attend_single(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: StepLayout, rule: AttentionRule
) -> torch.Tensor:
    """queries [S, H, D] -> [S, H * D]."""
    num_sequences, num_query_heads, head_size = queries.shape
    num_kv_heads = keys.shape[2]
    blocks, cells = _visible_blocks(layout, num_sequences, rule)
    shape = (num_sequences, -1, num_kv_heads, head_size)
    own_keys = keys[blocks].view(shape).permute(0, 2, 3, 1)  # [S, K, D, B * P]
    own_values = values[blocks].view(shape).transpose(1, 2)  # [S, K, B * P, D]
    grouped = queries.view(num_sequences, num_kv_heads, -1, head_size)  # [S, K, H / K, D]
    scores = _cap(torch.matmul(grouped, own_keys).float() * rule.scale, rule)
    lengths = layout.context_lengths[:num_sequences, None]
    is_hidden = cells >= lengths
    if rule.window is not None:
        is_hidden |= cells < lengths - rule.window
    is_hidden = is_hidden[:, None, None, :]
    weights = scores.masked_fill_(is_hidden, float("-inf")).softmax(dim=-1).to(queries.dtype)
    # What padding points at may be uninitialised: 0 * NaN is NaN, so the values are cleared, too.
    own_values = own_values.masked_fill(is_hidden.transpose(2, 3), 0)
    return torch.matmul(weights, own_values).view(num_sequences, num_query_heads * head_size)


def _visible_blocks(layout: StepLayout, num_sequences: int, rule: AttentionRule) -> tuple[torch.Tensor, torch.Tensor]:
    """Of sequences with one new token: blocks to read [S, B], and the position of each of their cells [S, B * P]."""
    size = layout.block_size_tokens
    contexts = layout.context_length_list[:num_sequences]
    firsts = [rule.first_visible(context - 1) // size for context in contexts]
    num_blocks = max(-(-context // size) - first for context, first in zip(contexts, firsts, strict=True))
    device = layout.block_tables.device
    columns = torch.tensor(firsts, device=device)[:, None] + torch.arange(num_blocks, device=device)
    tables = layout.block_tables[:num_sequences]
    blocks = tables.gather(1, columns.clamp(max=tables.shape[1] - 1)).long()
    cells = columns[:, :, None] * size + torch.arange(size, device=device)
    return blocks, cells.flatten(1)


def attend_chunk(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: StepLayout,
    row: int,
    rule: AttentionRule,
) -> torch.Tensor:
    """queries [n, H, D] of one sequence -> [n, H * D]."""
    context, size = layout.context_length_list[row], layout.block_size_tokens
    num_queries = queries.shape[0]
    first_block = rule.first_visible(context - num_queries) // size
    blocks = layout.block_tables[row, first_block : -(-context // size)].long()
    num_cells = context - first_block * size
    group = queries.shape[1] // keys.shape[2]
    own_keys = _by_head(keys[blocks], num_cells, group)
    own_values = _by_head(values[blocks], num_cells, group)
    own_queries = queries.transpose(0, 1)[None]  # [1, H, n, D]
    start = num_cells - num_queries
    mask = None
    if start or rule.soft_cap is not None or (rule.window is not None and rule.window < context):
        mask = _visible_cells(num_cells, start, rule, queries.device)
    if rule.soft_cap is None:
        attended = functional.scaled_dot_product_attention(
            own_queries, own_keys, own_values, attn_mask=mask, is_causal=mask is None, scale=rule.scale
        )
    else:
        assert mask is not None, "a soft cap goes with a mask"
        scores = _cap(torch.matmul(own_queries, own_keys.transpose(2, 3)).float() * rule.scale, rule)
        weights = scores.masked_fill_(~mask, float("-inf")).softmax(dim=-1).to(queries.dtype)
        attended = torch.matmul(weights, own_values)
    return attended[0].transpose(0, 1).reshape(num_queries, -1)


def _visible_cells(num_cells: int, start: int, rule: AttentionRule, device: torch.device) -> torch.Tensor:
    """[n, num_cells], true where a query may look; the queries are the cells from `start` on."""
    cells = torch.arange(num_cells, device=device)
    ages = cells[start:, None] - cells[None, :]
    return ages >= 0 if rule.window is None else (ages >= 0) & (ages < rule.window)


def _cap(scores: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    return scores if rule.soft_cap is None else scores.div_(rule.soft_cap).tanh_().mul_(rule.soft_cap)


def _by_head(gathered: torch.Tensor, num_cells: int, group: int) -> torch.Tensor:
    """[blocks, P, K, D] -> [1, H, num_cells, D]."""
    flat = gathered.flatten(0, 1)[:num_cells].transpose(0, 1)  # [K, num_cells, D]
    return flat.repeat_interleave(group, dim=0)[None] if group > 1 else flat[None]
