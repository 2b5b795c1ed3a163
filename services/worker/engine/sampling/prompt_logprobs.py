"""Log-probabilities of a prompt's own tokens, from the hidden states that prefilling computes anyway.

Row p of a prompt predicts token p + 1. The logits of some rows at a time: all of a long prompt would not fit.
"""

from collections.abc import Callable

import torch

from services.worker.engine.batch import ScheduledSequence
from services.worker.engine.device_transfer import Download, upload
from services.worker.engine.events import LogprobEntry

_ROWS_AT_A_TIME = 128


class PromptScores:
    """Scores of some rows of one prompt, still on the device."""

    def __init__(
        self, known: list[LogprobEntry | None], start: int, targets: list[int], logits: torch.Tensor, num_top: int
    ) -> None:
        """logits [r, V] of the prompt's rows from `start` on; `targets` are the tokens that follow them."""
        self._known = known
        self._start = start
        scores = logits.float().log_softmax(dim=1)  # [r, V]
        own = scores.gather(1, upload(targets, scores.device)[:, None])[:, 0]
        top = scores.topk(min(num_top, scores.shape[1]), dim=1)
        self._download = Download([own, top.indices, top.values])

    def read(self) -> None:
        """Waits for the device and fills the prompt's entries."""
        own, top_ids, top_values = (tensor.tolist() for tensor in self._download.read())
        self._known[self._start : self._start + len(own)] = [
            LogprobEntry(logprob=logprob, top_token_ids=token_ids, top_logprobs=values)
            for logprob, token_ids, values in zip(own, top_ids, top_values, strict=True)
        ]


def score_prompts(
    items: list[ScheduledSequence],
    query_starts: list[int],
    hidden: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
) -> list[PromptScores]:
    """hidden [T, E] of the step; item i begins at row `query_starts[i]`. To be read into `Sequence.prompt_logprobs`."""
    pending = []
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
            pending.append(PromptScores(known, start, targets, logits_of(rows), num_top))
    return pending
