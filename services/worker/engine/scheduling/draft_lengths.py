"""How many tokens each sequence should draft: as many as make the whole step's tokens per second the most.

A draft of k tokens that each stand with probability a brings a + a^2 + ... + a^k tokens more than none; every one of
them costs a row of the step and its own making. The rows of a small batch cost little, those of a full one as much as
they bring: so drafts fade out as the batch fills. Knows counts and seconds, no tokens and no blocks.

Source: Liu et al. 2024, "Optimizing Speculative Decoding for Serving Large Language Models Using Goodput", 4.
"""

from collections.abc import Sequence as List

from services.worker.engine.scheduling.step_costs import StepCosts
from services.worker.engine.sequence import Drafting, Sequence

FIRST_ACCEPTANCE = 0.7
"""Expected before a sequence's first draft is judged."""
_JUDGED_TOKENS = 16
"""Acceptance is a mean over about so many of the newest."""
_LEAST_GAIN = 1.03
"""What must be expected for drafts to be made at all: estimates err."""
_STEPS_TO_NEXT_TRIAL = 32
"""A sequence whose drafts do not pay tries one token again after so many steps: text changes."""


class DraftLengths:
    def __init__(self, costs: StepCosts, *, max_tokens: int, is_fixed: bool = False) -> None:
        """At most `max_tokens` for a sequence; `is_fixed`: always so many, for measurements."""
        self._costs = costs
        self._max_tokens = max_tokens
        self._is_fixed = is_fixed

    def choose(self, sequences: List[Sequence], *, num_rows: int, most: int) -> list[int]:
        """For sequences that speculate, in a step of `num_rows` without drafts; at most `most` together."""
        if self._is_fixed:
            return [self._max_tokens] * len(sequences)
        drafting = [sequence.drafting for sequence in sequences]
        gains = sorted(
            (
                (one.acceptance ** (place + 1), -place, index)
                for index, one in enumerate(drafting)
                if one is not None
                for place in range(self._max_tokens)
            ),
            reverse=True,
        )
        lengths = [0] * len(sequences)
        for _, _, index in gains[: self._best_number(gains[:most], drafting, num_rows)]:
            lengths[index] += 1
        for index, one in enumerate(drafting):
            if one is not None and lengths[index] == 0:
                one.num_steps_without += 1
                lengths[index] = int(one.num_steps_without % _STEPS_TO_NEXT_TRIAL == 0)
        return lengths

    def _best_number(self, gains: List[tuple[float, int, int]], drafting: List[Drafting | None], num_rows: int) -> int:
        tokens, draft_seconds = float(num_rows), 0.0
        best, best_rate = 0, _LEAST_GAIN * tokens / self._costs.of_step(num_rows)
        for number, (gain, _, index) in enumerate(gains, start=1):
            one = drafting[index]
            assert one is not None
            tokens += gain
            draft_seconds += self._costs.of_draft_token(one.method)
            rate = tokens / (self._costs.of_step(num_rows + number) + draft_seconds)
            if rate > best_rate:
                best, best_rate = number, rate
        return best


def learn(drafting: Drafting, *, num_drafted: int, num_accepted: int) -> None:
    """After a verdict. Tokens behind the first that was not accepted say nothing."""
    drafting.num_drafted += num_drafted
    drafting.num_accepted += num_accepted
    num_judged = min(num_accepted + 1, num_drafted)
    for judged in range(num_judged):
        drafting.acceptance += (float(judged < num_accepted) - drafting.acceptance) / _JUDGED_TOKENS
