"""From logits to tokens: one for every row, each by its own request's parameters.

A row's token depends on its logits, its request and (seed, position) only; judged by rejection, on a draft's token,
too. Knows no blocks and no schedule. Nothing is read from the device before `PendingSamples.read`: until then the host
is free, and the device is not waited for.
"""

import torch

from services.worker.engine.batch import SampledToken
from services.worker.engine.device_transfer import Download, select_rows, upload
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.keyed_choice import at_temperatures, choose
from services.worker.engine.sampling.noise import NoiseStream
from services.worker.engine.sampling.penalties import apply_penalties, changes_logits
from services.worker.engine.sampling.residual import judge
from services.worker.engine.sampling.token_masks import apply_masks
from services.worker.engine.sampling.truncation import truncate, truncates

_NUM_TOP = 20
"""The same for every row, so that ties are not broken by what a neighbour asked for."""


class PendingSamples:
    """Drawn, but still on the device."""

    def __init__(
        self,
        draws: list[Draw],
        token_ids: torch.Tensor,
        is_valid: torch.Tensor,
        wanted: list[int],
        raw: torch.Tensor | None,
    ) -> None:
        """token_ids and is_valid [R]; raw [len(wanted), V]: log probabilities of the rows that asked for them."""
        self._draws = draws
        self._wanted = wanted
        results = [token_ids, is_valid]
        if raw is not None:
            num_top = max(_NUM_TOP, *(_num_top(draws[row]) for row in wanted))
            top = raw.topk(min(num_top, raw.shape[1]))
            results += [raw.gather(1, select_rows(token_ids, wanted)[:, None])[:, 0], top.indices, top.values]
        self._download = Download(results)

    def read(self) -> list[SampledToken]:
        """Waits for the device."""
        token_ids, is_valid, *scores = (tensor.tolist() for tensor in self._download.read())
        tokens = [
            SampledToken(sequence=draw.sequence, token_id=token_id, is_valid=valid)
            for draw, token_id, valid in zip(self._draws, token_ids, is_valid, strict=True)
        ]
        for row, own, top_ids, top_values in zip(self._wanted, *scores, strict=True) if scores else ():
            num_top = _num_top(self._draws[row])
            tokens[row] = SampledToken(
                sequence=self._draws[row].sequence,
                token_id=token_ids[row],
                logprob=own,
                top_token_ids=top_ids[:num_top],
                top_logprobs=top_values[:num_top],
                is_valid=is_valid[row],
            )
        return tokens


def sample(logits: torch.Tensor, draws: list[Draw]) -> PendingSamples:
    """logits [R, V] float32, may be overwritten; row r is for draw r."""
    is_valid = logits.amax(dim=1).isfinite()
    # Where looking costs nothing, a pass over all logits is saved.
    if logits.device.type != "cpu" or not bool(is_valid.all()):
        logits.masked_fill_(~is_valid[:, None], 0.0)
    wanted = [row for row, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    raw = select_rows(logits, wanted).log_softmax(dim=1) if wanted else None
    apply_masks(logits, draws)
    apply_penalties(logits, draws)
    return PendingSamples(draws, _choose(logits, draws), is_valid, wanted, raw)


def propose(
    logits: torch.Tensor, draws: list[Draw], *, shares_noise: bool
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """A draft's next tokens [R] int64 from its own model's logits [R, V] float32, which may be overwritten.

    Drawn as the target would, but for a grammar's mask. With the target's noise, or with noise of its own: then what
    random tokens were drawn from, [V] each, has to go with the draft.
    """
    logits.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    apply_penalties(logits, draws)
    if shares_noise:
        return _choose(logits, draws), [None] * len(draws)
    probabilities: list[torch.Tensor | None] = [None] * len(draws)
    chosen = logits.argmax(dim=1)
    random_rows = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if random_rows:
        some = [draws[row] for row in random_rows]
        scores = _scores(select_rows(logits, random_rows), some)
        chosen.index_copy_(0, upload(random_rows, logits.device), choose(scores, some, NoiseStream.DRAFT))
        for row, own in zip(random_rows, scores.softmax(dim=1), strict=True):
            probabilities[row] = own
    return chosen, probabilities


def _num_top(draw: Draw) -> int:
    return draw.sampling.logprobs or 0


def wants_only_the_largest(draws: list[Draw]) -> bool:
    """All of them are greedy and ask for nothing else: `take_largest` does what `sample` would, without logits."""
    return all(
        draw.sampling.temperature <= 0
        and draw.sampling.logprobs is None
        and draw.sequence.constraint is None
        and not changes_logits(draw)
        for draw in draws
    )


def take_largest(token_ids: torch.Tensor, draws: list[Draw]) -> PendingSamples:
    """token_ids [R] int64 of the largest logits, -1 where a row was not a number."""
    return PendingSamples(draws, token_ids.clamp(min=0), token_ids >= 0, [], None)


def _choose(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """[R] int64."""
    random_rows = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if not random_rows:
        return logits.argmax(dim=1)
    if len(random_rows) == len(draws):
        return _draw(logits, draws)
    chosen = logits.argmax(dim=1)
    some = [draws[row] for row in random_rows]
    drawn = _draw(select_rows(logits, random_rows), some)
    return chosen.index_copy_(0, upload(random_rows, logits.device), drawn)


def _scores(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """[R, V]: logarithms of weights at each row's temperature, -inf where the caller's filters cut."""
    return truncate(at_temperatures(logits, _temperatures(logits, draws)), [draw.sampling for draw in draws])


def _temperatures(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    return upload([draw.sampling.temperature for draw in draws], logits.device)


def _draw(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """[R] int64; a draft's candidates are judged by rejection."""
    judged = [row for row, draw in enumerate(draws) if draw.candidate is not None]
    if not judged and not any(truncates(draw.sampling) for draw in draws):
        return choose(logits, draws, temperatures=_temperatures(logits, draws))
    scores = _scores(logits, draws)
    if not judged:
        return choose(scores, draws)
    if len(judged) == len(draws):
        return judge(scores, draws)
    plain = [row for row, draw in enumerate(draws) if draw.candidate is None]
    chosen = torch.empty(len(draws), dtype=torch.int64, device=scores.device)
    chosen.index_copy_(0, upload(plain, scores.device), choose(select_rows(scores, plain), [draws[r] for r in plain]))
    accepted = judge(select_rows(scores, judged), [draws[r] for r in judged])
    return chosen.index_copy_(0, upload(judged, scores.device), accepted)
