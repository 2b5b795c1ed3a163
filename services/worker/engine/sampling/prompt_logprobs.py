"""Log-probabilities of a prompt's own tokens, from the hidden states that prefilling computes anyway.

Row p of a prompt predicts token p + 1. The logits of some rows at a time: all of a long prompt would not fit.
"""

from collections.abc import Callable

import torch

from services.worker.engine.batch import ScheduledSequence
from services.worker.engine.events import LogprobEntry

_ROWS_AT_A_TIME = 128


def score_prompts(
    items: list[ScheduledSequence],
    query_starts: list[int],
    hidden: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """hidden [T, E] of the step; item i begins at row `query_starts[i]`. Fills `Sequence.prompt_logprobs`."""
    for item, row in zip(items, query_starts, strict=False):
        known = item.sequence.prompt_logprobs
        if known is None:
            continue
        end = min(item.start + item.num_tokens, item.sequence.num_prompt_tokens - 1)
        for start in range(item.start, end, _ROWS_AT_A_TIME):
            stop = min(start + _ROWS_AT_A_TIME, end)
            rows = hidden[row + start - item.start : row + stop - item.start]
            targets = item.sequence.token_ids[start + 1 : stop + 1]
            num_top = item.sequence.request.sampling.logprobs or 0
            known[start:stop] = _entries(logits_of(rows), targets, num_top)


def _entries(logits: torch.Tensor, targets: list[int], num_top: int) -> list[LogprobEntry]:
    scores = logits.float().log_softmax(dim=1)  # [r, V]
    own = scores.gather(1, torch.tensor(targets, device=scores.device)[:, None])[:, 0].tolist()
    top = scores.topk(min(num_top, scores.shape[1]), dim=1)
    return [
        LogprobEntry(logprob=logprob, top_token_ids=token_ids, top_logprobs=values)
        for logprob, token_ids, values in zip(own, top.indices.tolist(), top.values.tolist(), strict=True)
    ]
