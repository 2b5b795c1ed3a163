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
    is_accepted = numbers < acceptance(target, draft, candidates)
    return torch.where(is_accepted, candidates[:, 0], choose(rest(target, draft).log_(), draws))


def acceptance(target: torch.Tensor, draft: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """target and draft [R, V] probabilities, candidates [R, 1] drawn from the draft -> [R], how likely each stands."""
    return (target.gather(1, candidates) / draft.gather(1, candidates)).clamp_(max=1.0)[:, 0]


def rest(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    """What replaces a rejected candidate is drawn from this, [R, V]; not normalised."""
    left = (target - draft).clamp_(min=0)
    # Rounding may leave nothing of two equal distributions; then hardly anything is rejected.
    return torch.where(left.sum(dim=1, keepdim=True) > 0, left, target)
