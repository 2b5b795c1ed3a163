"""Attention, slow and obvious: one sequence after another, in float32, straight from the definition.

What the fast backends are tested against. Source: Vaswani et al. 2017, 3.2.1, causal; grouped heads after
Ainslie et al. 2023; sliding window, Beltagy et al. 2020; soft cap, Bello et al. 2016 and Gemma 2.
"""

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.step_layout import StepLayout


class ReferenceAttention:
    name = "reference"
    is_capturable = False

    def attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> torch.Tensor:
        output = torch.empty_like(queries)
        group = queries.shape[1] // keys.shape[2]
        for row in range(layout.num_sequences):
            context = layout.context_length_list[row]
            begin, end = layout.query_start_list[row], layout.query_start_list[row + 1]
            # Blocks that the first of the queries does not see may be another sequence's by now.
            oldest = rule.first_visible(context - (end - begin))
            cells = torch.arange(oldest, context, device=queries.device)
            blocks = layout.block_tables[row].long()[cells // layout.block_size_tokens]
            offsets = cells % layout.block_size_tokens
            own_keys = keys[blocks, offsets].float().repeat_interleave(group, dim=1)  # [context, H, D]
            own_values = values[blocks, offsets].float().repeat_interleave(group, dim=1)
            scores = torch.einsum("qhd,chd->hqc", queries[begin:end].float(), own_keys) * rule.scale
            if rule.soft_cap is not None:
                scores = (scores / rule.soft_cap).tanh() * rule.soft_cap
            ages = layout.positions[begin:end, None] - cells[None, :]  # [queries, context]
            is_hidden = ages < 0 if rule.window is None else (ages < 0) | (ages >= rule.window)
            weights = scores.masked_fill(is_hidden, float("-inf")).softmax(dim=-1)
            output[begin:end] = torch.einsum("hqc,chd->qhd", weights, own_values).to(output.dtype)
        return output.flatten(1)
