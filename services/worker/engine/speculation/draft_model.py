"""A smaller model of its own that drafts: it keeps a cache of its own, which follows what the target accepts.

Every sequence has a shadow: the tokens that the draft's model has seen of it, and blocks of the draft's own pool. What
was drafted and did not stand is taken back when the next draft begins. Blocks are lent, not promised: where they run
out, the shadow that was used least lately loses its own and is computed again should it ever draft again.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", 2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from services.worker.engine.batch import NO_DRAFT, Draft, ScheduledBatch, ScheduledSequence, Verdict
from services.worker.engine.kv_cache.block_pool import BlocksExhausted
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.sequence import Sequence
from services.worker.engine.speculation.draft_method import DraftTask
from services.worker.engine.speculation.model_drafting import ComputesLogits, Writing, shadow_of, write_drafts

_FEW_TOKENS = 64
"""A shadow that is farther behind catches up in this step and drafts in the next: a prompt's cost is not a draft's."""


@dataclass(slots=True)
class _Followed:
    shadow: Sequence
    num_agreed: int
    """Of the shadow's tokens those that the sequence is known to have."""


class DraftModel:
    name = "draft-model"

    def __init__(
        self,
        runner: ComputesLogits,
        cache: PagedCache,
        *,
        vocabulary_size: int,
        max_model_tokens: int,
        max_tokens_per_step: int,
        shares_noise: bool,
    ) -> None:
        """`max_model_tokens`: of the draft's model; longer sequences go without drafts."""
        self._vocabulary_size = vocabulary_size
        self.cache = cache
        self._runner = runner
        self._max_model_tokens = max_model_tokens
        self._max_tokens_per_step = max_tokens_per_step
        self._shares_noise = shares_noise
        self._followed: dict[Sequence, _Followed] = {}
        """Used least lately first."""

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        busy = {task.sequence for task in tasks}
        catching_up: list[ScheduledSequence] = []
        writings: dict[Sequence, Writing] = {}
        budget = self._max_tokens_per_step
        for task in tasks:
            num_tokens = min(task.num_tokens, self._max_model_tokens - task.sequence.num_tokens)
            if num_tokens < 1:
                continue
            shadow = self._follow(task.sequence)
            num_behind = shadow.num_uncomputed_tokens - 1
            if num_behind <= _FEW_TOKENS:
                # The last of a draft's tokens is never computed.
                if self._has_room(shadow, shadow.num_tokens + num_tokens - 1, busy):
                    writings[task.sequence] = Writing(sequence=task.sequence, shadow=shadow, num_tokens=num_tokens)
                continue
            num_now = min(num_behind, budget)
            if num_now > 0 and self._has_room(shadow, shadow.num_computed_tokens + num_now, busy):
                budget -= num_now
                catching_up.append(_part(shadow, num_now))
        self._compute(catching_up)
        write_drafts(self._runner, list(writings.values()), shares_noise=self._shares_noise)
        return [writings[task.sequence].draft() if task.sequence in writings else NO_DRAFT for task in tasks]

    def judged(self, verdicts: list[Verdict]) -> None:
        """Seen when the next draft begins: the sequence's own tokens tell."""

    def forget(self, sequence: Sequence) -> None:
        followed = self._followed.pop(sequence, None)
        if followed is not None:
            self.cache.free(followed.shadow)

    def _follow(self, sequence: Sequence) -> Sequence:
        """The sequence's shadow, with the sequence's tokens; of those in the cache the ones that are right stay."""
        followed = self._followed.pop(sequence, None)
        if followed is None:
            shadow = shadow_of(sequence)
            shadow.block_tables, shadow.num_computed_tokens = [], 0
            followed = _Followed(shadow=shadow, num_agreed=0)
        shadow = followed.shadow
        # At least one token is left to compute: the draft's first comes from its logits.
        end = min(shadow.num_computed_tokens, sequence.num_tokens - 1)
        num_right = min(followed.num_agreed, end)
        while num_right < end and shadow.token_ids[num_right] == sequence.token_ids[num_right]:
            num_right += 1
        # A token that only the target's head has is read as any other: the draft is a guess.
        shadow.token_ids[num_right:] = [
            token_id if token_id < self._vocabulary_size else 0 for token_id in sequence.token_ids[num_right:]
        ]
        if shadow.block_tables:
            self.cache.advance(shadow, num_right)
        followed.num_agreed = sequence.num_tokens
        self._followed[sequence] = followed
        return shadow

    def _has_room(self, shadow: Sequence, num_tokens: int, busy: Collection[Sequence]) -> bool:
        while True:
            try:
                copies = self.cache.grow(shadow, num_tokens)
            except BlocksExhausted:
                idle = next((sequence for sequence in self._followed if sequence not in busy), None)
                if idle is None:
                    return False
                self.forget(idle)
            else:
                assert not copies, "a shadow shares no block"
                return True

    def _compute(self, items: list[ScheduledSequence]) -> None:
        if items:
            self._runner.logits(ScheduledBatch(items=items))
        for item in items:
            self.cache.advance(item.sequence, item.start + item.num_tokens)


def _part(shadow: Sequence, num_tokens: int) -> ScheduledSequence:
    return ScheduledSequence(
        sequence=shadow,
        start=shadow.num_computed_tokens,
        num_tokens=num_tokens,
        samplers=(shadow,),
        is_decode=False,
    )
