"""Verification by rejection: a draft's token stands with probability min(1, p / q), else max(0, p - q) is drawn from.

What comes out is distributed as p, whatever q is. p is the target's distribution after everything the caller asked for
(penalties, bias, mask, temperature, truncation), q the one that the draft's token was drawn from.

Source: Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative Decoding", 2.3 and A.1.
"""

import torch

from services.worker.engine.device_transfer import upload
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.keyed_choice import choose
from services.worker.engine.sampling.noise import uniform


def judge(scores: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """scores [R, V] float32, logarithms of the target's weights; every draw has a candidate -> [R] int64."""
    device = scores.device
    target = scores.softmax(dim=1)  # p
    candidates = upload([draw.candidate for draw in draws], device)[:, None]
    draft = torch.zeros_like(target).scatter_(1, candidates, 1.0)  # q
    for row, draw in enumerate(draws):
        if draw.candidate_probabilities is not None:
            draft[row] = draw.candidate_probabilities
    numbers = upload([uniform(draw.sequence.seed, draw.position) for draw in draws], device, torch.float32)
    is_accepted = numbers * draft.gather(1, candidates)[:, 0] < target.gather(1, candidates)[:, 0]
    rest = (target - draft).clamp_(min=0)
    # Rounding may leave nothing of two equal distributions; then hardly anything is rejected.
    rest = torch.where(rest.sum(dim=1, keepdim=True) > 0, rest, target)
    return torch.where(is_accepted, candidates[:, 0], choose(rest.log_(), draws))
