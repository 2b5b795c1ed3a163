"""Drafts for a step that is scheduled, and what their verdicts teach. Holds the methods; each sequence has one.

The scheduler says how many tokens there is room for, the method guesses them, the grammar has its word, and after the
step every sequence's acceptance is known a little better.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

from services.worker.engine.batch import NO_DRAFT, Draft, ScheduledBatch, Verdict
from services.worker.engine.scheduling.draft_lengths import FIRST_ACCEPTANCE, learn
from services.worker.engine.scheduling.step_costs import StepCosts
from services.worker.engine.sequence import Drafting, Sequence, SequenceState
from services.worker.engine.speculation.draft_method import DraftMethod, DraftTask

NO_SPECULATION = "none"


class Speculation:
    """Not thread-safe: the engine's thread."""

    def __init__(
        self,
        methods: dict[str, DraftMethod],
        *,
        default: str,
        costs: StepCosts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`default`: of requests that name none. Raises ValueError for one that is not there."""
        if default != NO_SPECULATION and default not in methods:
            raise ValueError(f"speculation {default} is none of {', '.join([NO_SPECULATION, *methods])}")
        self._methods = methods
        self._default = default
        self._costs = costs
        self._clock = clock
        self.draft_seconds = 0.0
        """Of the latest step."""

    @property
    def names(self) -> list[str]:
        return [NO_SPECULATION, *self._methods]

    def begin(self, sequence: Sequence, method: str | None) -> None:
        """`method` None is the default, or a look at the output that the caller predicted."""
        name = method or self._default
        if sequence.request.predicted_token_ids and method is None:
            name = "prompt-lookup"
        if name != NO_SPECULATION:
            sequence.drafting = Drafting(method=name, acceptance=FIRST_ACCEPTANCE)

    def draft(self, batch: ScheduledBatch) -> None:
        """Fill what room the scheduler gave."""
        started = self._clock()
        for sequence in batch.preempted:
            self.forget(sequence)
        places = [(_method_of(item.sequence), index) for index, item in enumerate(batch.items) if item.draft_room]
        for name, own in groupby(sorted(places), key=lambda place: place[0]):
            self._draft_by(self._methods[name], batch, [index for _, index in own])
        self.draft_seconds = self._clock() - started

    def _draft_by(self, method: DraftMethod, batch: ScheduledBatch, places: list[int]) -> None:
        started = self._clock()
        items = [batch.items[index] for index in places]
        drafts = method.propose([DraftTask(sequence=item.sequence, num_tokens=item.draft_room) for item in items])
        num_tokens = sum(draft.length for draft in drafts)
        if num_tokens:
            self._costs.observe_draft(method.name, num_tokens, self._clock() - started)
        for index, item, draft in zip(places, items, drafts, strict=True):
            batch.items[index] = replace(item, draft=_allowed(item.sequence, draft))

    def learn(self, batch: ScheduledBatch, verdicts: list[Verdict], seconds: float) -> None:
        """After the step, which took `seconds` without its drafts."""
        if batch.num_prefill_tokens == 0 and batch.items:
            self._costs.observe_step(sum(item.num_rows for item in batch.items), seconds)
        for verdict in verdicts:
            assert verdict.sequence.drafting is not None, "only who speculates has drafts"
            learn(verdict.sequence.drafting, num_drafted=verdict.draft.length, num_accepted=verdict.num_accepted)
        going_on = [verdict for verdict in verdicts if verdict.sequence.state is SequenceState.RUNNING]
        for name, own in groupby(
            sorted(going_on, key=lambda one: _method_of(one.sequence)), key=lambda one: _method_of(one.sequence)
        ):
            self._methods[name].judged(list(own))

    def forget(self, sequence: Sequence) -> None:
        """It ended, or lost its blocks."""
        if sequence.drafting is not None:
            self._methods[sequence.drafting.method].forget(sequence)


def _method_of(sequence: Sequence) -> str:
    assert sequence.drafting is not None, "room for drafts is for who speculates"
    return sequence.drafting.method


def _allowed(sequence: Sequence, draft: Draft) -> Draft:
    """Without what its grammar will not have.

    A token that was drawn by chance has to be rejected, not left out: leaving it out would favour the others. It is
    the last one then, since nothing can stand behind it.
    """
    if sequence.constraint is None or not draft.length:
        return draft
    num_allowed = sequence.constraint.count_allowed(draft.token_ids)
    if draft.probabilities is not None:
        num_kept = min(num_allowed + 1, draft.length)
        return Draft(token_ids=draft.token_ids[:num_kept], probabilities=draft.probabilities[:num_kept])
    return Draft(token_ids=draft.token_ids[:num_allowed]) if num_allowed else NO_DRAFT
