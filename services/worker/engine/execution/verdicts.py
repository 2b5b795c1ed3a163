"""Which tokens of the drafts stand: those that the target chose too, up to the first that differs. No torch.

How a row's token was chosen is the sampler's: with the same noise as ever (then it is the token that would have come
without a draft), or by rejection, which chooses the draft's token with the right probability.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from services.worker.engine.batch import SampledToken, ScheduledSequence, StepOutcome, Verdict


def judge_drafts(items: Iterable[ScheduledSequence], chosen: Iterable[SampledToken]) -> StepOutcome:
    """`chosen`: for every item in turn one token of each sampler, or one of each row where it has a draft."""
    outcome = StepOutcome(tokens=[], verdicts=[])
    rest = iter(chosen)
    for item in items:
        if item.draft.token_ids:
            _judge(item, rest, outcome)
        else:
            outcome.tokens.extend(islice(rest, len(item.samplers)))
    return outcome


def _judge(item: ScheduledSequence, rest: Iterator[SampledToken], outcome: StepOutcome) -> None:
    own = list(islice(rest, item.draft.length + 1))
    num_accepted = 0
    while num_accepted < item.draft.length and _stands(own[num_accepted], item.draft.token_ids[num_accepted]):
        num_accepted += 1
    outcome.tokens.extend(own[: num_accepted + 1])
    outcome.verdicts.append(
        Verdict(
            sequence=item.sequence,
            draft=item.draft,
            num_accepted=num_accepted,
            target_token_ids=tuple(token.token_id for token in own),
        )
    )


def _stands(chosen: SampledToken, drafted: int) -> bool:
    return chosen.is_valid and chosen.token_id == drafted
