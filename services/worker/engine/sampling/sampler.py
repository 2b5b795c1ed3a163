"""From logits to tokens: one for every row, each by its own request's parameters.

A row's token depends on its logits, its request and (seed, position) only. Knows no blocks and no schedule. Nothing
is read from the device before `PendingSamples.read`: until then the host is free, and the device is not waited for.
"""

import torch

from services.worker.engine.batch import SampledToken
from services.worker.engine.device_transfer import Download, select_rows, upload
from services.worker.engine.sampling.noise import uniform
from services.worker.engine.sampling.penalties import apply_penalties, changes_logits
from services.worker.engine.sampling.token_masks import apply_masks
from services.worker.engine.sampling.truncation import truncate
from services.worker.engine.sequence import Sequence

_NUM_TOP = 20
"""The same for every row, so that ties are not broken by what a neighbour asked for."""


class PendingSamples:
    """Drawn, but still on the device."""

    def __init__(
        self,
        sequences: list[Sequence],
        token_ids: torch.Tensor,
        is_valid: torch.Tensor,
        wanted: list[int],
        raw: torch.Tensor | None,
    ) -> None:
        """token_ids and is_valid [R]; raw [len(wanted), V]: log probabilities of the rows that asked for them."""
        self._sequences = sequences
        self._wanted = wanted
        results = [token_ids, is_valid]
        if raw is not None:
            num_top = max(_NUM_TOP, *(_num_top(sequences[row]) for row in wanted))
            top = raw.topk(min(num_top, raw.shape[1]))
            results += [raw.gather(1, select_rows(token_ids, wanted)[:, None])[:, 0], top.indices, top.values]
        self._download = Download(results)

    def read(self) -> list[SampledToken]:
        """Waits for the device."""
        token_ids, is_valid, *scores = (tensor.tolist() for tensor in self._download.read())
        tokens = [
            SampledToken(sequence=sequence, token_id=token_id, is_valid=valid)
            for sequence, token_id, valid in zip(self._sequences, token_ids, is_valid, strict=True)
        ]
        for row, own, top_ids, top_values in zip(self._wanted, *scores, strict=True) if scores else ():
            num_top = _num_top(self._sequences[row])
            tokens[row] = SampledToken(
                sequence=self._sequences[row],
                token_id=token_ids[row],
                logprob=own,
                top_token_ids=top_ids[:num_top],
                top_logprobs=top_values[:num_top],
                is_valid=is_valid[row],
            )
        return tokens


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> PendingSamples:
    """logits [R, V] float32, may be overwritten; row r is drawn for sequence r."""
    is_valid = logits.amax(dim=1).isfinite()
    # Where looking costs nothing, a pass over all logits is saved.
    if logits.device.type != "cpu" or not bool(is_valid.all()):
        logits.masked_fill_(~is_valid[:, None], 0.0)
    wanted = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.logprobs is not None]
    raw = select_rows(logits, wanted).log_softmax(dim=1) if wanted else None
    apply_masks(logits, sequences)
    apply_penalties(logits, sequences)
    return PendingSamples(sequences, _choose(logits, sequences), is_valid, wanted, raw)


def _num_top(sequence: Sequence) -> int:
    return sequence.request.sampling.logprobs or 0


def wants_only_the_largest(sequences: list[Sequence]) -> bool:
    """All of them are greedy and ask for nothing else: `take_largest` does what `sample` would, without logits."""
    return all(
        sequence.request.sampling.temperature <= 0
        and sequence.request.sampling.logprobs is None
        and sequence.constraint is None
        and not changes_logits(sequence)
        for sequence in sequences
    )


def take_largest(token_ids: torch.Tensor, sequences: list[Sequence]) -> PendingSamples:
    """token_ids [R] int64 of the largest logits, -1 where a row was not a number."""
    return PendingSamples(sequences, token_ids.clamp(min=0), token_ids >= 0, [], None)


def _choose(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """[R] int64."""
    random_rows = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if not random_rows:
        return logits.argmax(dim=1)
    if len(random_rows) == len(sequences):
        return _draw(logits, sequences)
    chosen = logits.argmax(dim=1)
    drawn = _draw(select_rows(logits, random_rows), [sequences[row] for row in random_rows])
    return chosen.index_copy_(0, upload(random_rows, logits.device), drawn)


def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    """Inverse of the cumulative distribution in vocabulary order, at (seed, position)'s number: [R] int64."""
    device = logits.device
    parameters = [sequence.request.sampling for sequence in sequences]
    temperatures = upload([one.temperature for one in parameters], device)
    # Shifted to a maximum of 0 first: a tiny temperature must not overflow.
    shifted = (logits - logits.amax(dim=1, keepdim=True)) / temperatures[:, None]
    probabilities = truncate(shifted, parameters).softmax(dim=1)
    cumulative = probabilities.cumsum(dim=1)  # [R, V], not decreasing
    numbers = [uniform(sequence.seed, sequence.num_output_tokens) for sequence in sequences]
    total = cumulative[:, -1:]
    targets = upload(numbers, device, torch.float32)[:, None] * total
    # Rounding may reach the total itself; below it the token found has a probability above 0.
    targets = torch.minimum(targets, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]
