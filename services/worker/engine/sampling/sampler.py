"""From logits to tokens: one for every row, each by its own request's parameters.

A row's token depends on its logits, its request and (seed, position) only. Knows no blocks and no schedule.
"""

import torch

from services.worker.engine.batch import SampledToken
from services.worker.engine.sampling.noise import uniform
from services.worker.engine.sampling.penalties import apply_penalties
from services.worker.engine.sampling.token_masks import apply_masks
from services.worker.engine.sampling.truncation import truncate
from services.worker.engine.sequence import Sequence


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[SampledToken]:
    """logits [R, V] float32, may be overwritten; row r is drawn for sequence r."""
    is_valid = logits.amax(dim=1).isfinite().tolist()
    if not all(is_valid):
        logits[[row for row, valid in enumerate(is_valid) if not valid]] = 0.0
    wanted = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.logprobs is not None]
    raw = dict(zip(wanted, logits[wanted].log_softmax(dim=1), strict=True)) if wanted else {}
    apply_masks(logits, sequences)
    apply_penalties(logits, sequences)
    token_ids = _choose(logits, sequences)
    return [
        _sampled(sequence, token_ids[row], raw.get(row), is_valid=is_valid[row])
        for row, sequence in enumerate(sequences)
    ]


def _choose(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    random_rows = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if not random_rows:
        return _as_list(logits.argmax(dim=1))
    if len(random_rows) == len(sequences):
        return _as_list(_draw(logits, sequences))
    chosen = logits.argmax(dim=1)
    chosen[random_rows] = _draw(logits[random_rows], [sequences[row] for row in random_rows])
    return _as_list(chosen)


def _as_list(token_ids: torch.Tensor) -> list[int]:
    values: list[int] = token_ids.tolist()
    return values


def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Inverse of the cumulative distribution in vocabulary order, at (seed, position)'s number: [R] int64."""
    parameters = [sequence.request.sampling for sequence in sequences]
    temperatures = torch.tensor([one.temperature for one in parameters], device=logits.device)
    # Shifted to a maximum of 0 first: a tiny temperature must not overflow.
    shifted = (logits - logits.amax(dim=1, keepdim=True)) / temperatures[:, None]
    probabilities = truncate(shifted, parameters).softmax(dim=1)
    cumulative = probabilities.cumsum(dim=1)  # [R, V], not decreasing
    numbers = [uniform(sequence.seed, sequence.num_output_tokens) for sequence in sequences]
    total = cumulative[:, -1:]
    targets = torch.tensor(numbers, dtype=torch.float32, device=logits.device)[:, None] * total
    # Rounding may reach the total itself; below it the token found has a probability above 0.
    targets = torch.minimum(targets, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def _sampled(sequence: Sequence, token_id: int, raw: torch.Tensor | None, *, is_valid: bool) -> SampledToken:
    num_top = sequence.request.sampling.logprobs
    if raw is None or num_top is None:
        return SampledToken(sequence=sequence, token_id=token_id, is_valid=is_valid)
    top = raw.topk(min(num_top, raw.shape[0]))
    return SampledToken(
        sequence=sequence,
        token_id=token_id,
        logprob=float(raw[token_id]),
        top_token_ids=top.indices.tolist(),
        top_logprobs=top.values.tolist(),
        is_valid=is_valid,
    )
