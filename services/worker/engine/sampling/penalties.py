"""What the caller and earlier tokens do to the next one's logits: bias, penalties, minimum length.

Sources: Keskar et al. 2019 (repetition, over prompt and output); OpenAI's API (frequency and presence, output).
"""

import math
from collections import Counter

import torch

from services.worker.engine.device_transfer import upload
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sequence import Sequence


def apply_penalties(logits: torch.Tensor, draws: list[Draw]) -> None:
    """logits [R, V] float32, changed in place; row r belongs to draw r."""
    _bias(logits, draws)
    for row, draw in enumerate(draws):
        sampling = draw.sampling
        if sampling.repetition_penalty != 1.0:
            _repetition(logits[row], draw.token_ids, sampling.repetition_penalty)
        if sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0:
            _frequency(logits[row], draw.output_token_ids, sampling.frequency_penalty, sampling.presence_penalty)
        if draw.position < sampling.min_tokens and draw.sequence.request.ending_token_ids:
            _forbid_end(logits[row], draw.sequence)


def changes_logits(draw: Draw) -> bool:
    """Whether `apply_penalties` would touch this draw's row."""
    sampling = draw.sampling
    return (
        bool(sampling.logit_bias)
        or sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
        or (draw.position < sampling.min_tokens and bool(draw.sequence.request.ending_token_ids))
    )


def _bias(logits: torch.Tensor, draws: list[Draw]) -> None:
    """Every biased token of every row in one operation."""
    biased = [(row, token_id, bias) for row, draw in enumerate(draws) for token_id, bias in draw.sampling.logit_bias]
    if biased:
        rows, token_ids, biases = (upload(part, logits.device) for part in zip(*biased, strict=True))
        logits.index_put_((rows, token_ids), biases.to(logits.dtype), accumulate=True)


def _forbid_end(logits: torch.Tensor, sequence: Sequence) -> None:
    """logits [V]. Where a grammar allows nothing but the end, the minimum gives way."""
    ending = upload(sorted(sequence.request.ending_token_ids), logits.device)
    before = logits[ending]
    logits.index_fill_(0, ending, -math.inf)
    if sequence.constraint is not None:
        has_others = logits.isfinite().any()
        logits[ending] = torch.where(has_others, logits[ending], before)


def _repetition(logits: torch.Tensor, token_ids: list[int], penalty: float) -> None:
    seen = upload(sorted(set(token_ids)), logits.device)
    values = logits[seen]
    logits[seen] = torch.where(values > 0, values / penalty, values * penalty)


def _frequency(logits: torch.Tensor, token_ids: list[int], frequency: float, presence: float) -> None:
    if token_ids:
        occurrences = Counter(token_ids)
        seen = upload(list(occurrences), logits.device)
        counts = upload(list(occurrences.values()), logits.device)
        logits[seen] -= frequency * counts + presence
