"""Which tokens stay in the draw: top-k, then top-p of what top-k left, and min-p. Rows do not influence each other.

Every filter keeps all tokens at or above one threshold, so only the threshold is computed from sorted values;
tokens of equal value stay or go together. Sources: Fan et al. 2018 (top-k), Holtzman et al. 2019 (top-p),
Nguyen et al. 2024 (min-p).
"""

import math

import torch

from services.worker.engine.device_transfer import select_rows, upload
from shared.contracts.sampling import SamplingParameters

NUM_CANDIDATES = 512
"""Values sorted at first; the few rows whose top-p reaches further are sorted whole."""


def truncates(parameters: SamplingParameters) -> bool:
    return parameters.top_k > 0 or parameters.top_p < 1.0 or parameters.min_p > 0.0


def truncate(logits: torch.Tensor, parameters: list[SamplingParameters]) -> torch.Tensor:
    """logits [R, V] float32, already divided by the temperature; in place: what is out becomes -inf."""
    rows = [row for row, one in enumerate(parameters) if truncates(one)]
    if not rows:
        return logits
    some = select_rows(logits, rows)
    thresholds = _thresholds(some, [parameters[row] for row in rows])
    kept = some.masked_fill_(some < thresholds[:, None], -math.inf)
    if kept is not logits:
        logits[upload(rows, logits.device)] = kept
    return logits


def _thresholds(logits: torch.Tensor, parameters: list[SamplingParameters]) -> torch.Tensor:
    vocabulary_size = logits.shape[1]
    num_candidates = min(vocabulary_size, max(NUM_CANDIDATES, *(one.top_k for one in parameters)))
    can_look = logits.device.type == "cpu"
    if not can_look and any(one.top_k == 0 and one.top_p < 1.0 for one in parameters):
        num_candidates = vocabulary_size  # whether fewer are enough is known on the device only
    best = logits.topk(num_candidates, dim=1).values  # [R, C] descending
    thresholds, is_settled = _thresholds_among(best, logits, parameters)
    if not can_look:
        return thresholds
    for row in (~is_settled).nonzero().flatten().tolist():
        whole = logits[row : row + 1].sort(dim=1, descending=True).values
        thresholds[row] = _thresholds_among(whole, logits[row : row + 1], [parameters[row]])[0][0]
    return thresholds


def _thresholds_among(
    best: torch.Tensor, logits: torch.Tensor, parameters: list[SamplingParameters]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds [R], and whether the candidates `best` [R, C] were enough to know them."""
    device, vocabulary_size = logits.device, logits.shape[1]
    top_k = upload([one.top_k or vocabulary_size for one in parameters], device)
    top_p = upload([one.top_p for one in parameters], device, torch.float64)
    min_p = upload([one.min_p for one in parameters], device, torch.float32)
    ranks = torch.arange(best.shape[1], device=device)
    is_beyond_k = ranks[None, :] >= top_k[:, None]
    top = best.masked_fill(is_beyond_k, -math.inf)
    has_top_k = top_k < vocabulary_size
    normaliser = torch.where(has_top_k, top.logsumexp(dim=1), logits.logsumexp(dim=1))
    cumulative = (top - normaliser[:, None]).double().exp().cumsum(dim=1)  # [R, C]
    mass_before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative[:, :-1]], dim=1)
    is_kept = (mass_before < top_p[:, None]) & ~is_beyond_k
    num_kept = is_kept.sum(dim=1).clamp(min=1)
    nothing_cut = (top_p >= 1.0) & ~has_top_k
    lowest = best.gather(1, num_kept[:, None] - 1)[:, 0].masked_fill(nothing_cut, -math.inf)
    is_settled = nothing_cut | has_top_k | (cumulative[:, -1] >= top_p) | (best.shape[1] == vocabulary_size)
    return torch.maximum(lowest, best[:, 0] + min_p.log()), is_settled
