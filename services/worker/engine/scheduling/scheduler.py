"""Who computes what in the next step: continuous batching under a token budget.

Three verbs: `add` and `cancel` between steps, `schedule` a batch, `complete` it with the tokens that were drawn.
One pass in order over the running sequences (a decode is one token, a prefill takes a chunk of what the budget
leaves once every decode has its token), then admission of the waiting ones while budget and blocks last. When
blocks run out the running sequence that comes last is preempted: its blocks go back, it is computed again later.
A better lane does not wait for a worse one: the worse lane's last make way for its head.
Drafts get what is left of budget and blocks in the end, and take nothing from anybody.

Knows no torch, no clock and no messages. The sequence that comes first always gets its blocks, hence every
sequence ends: `accepts` keeps out what could not run even alone.

Source: Yu et al., "Orca" (iteration-level scheduling); Agrawal et al., "Sarathi-Serve" (chunked prefill beside
decode).
"""

from bisect import insort
from collections import Counter
from dataclasses import replace
from typing import Protocol

from services.worker.engine.batch import SampledToken, ScheduledBatch, ScheduledSequence
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.kv_cache.block_pool import BlocksExhausted
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.fair_share import FairShare
from services.worker.engine.scheduling.waiting_queue import WaitingQueue
from services.worker.engine.sequence import Sequence, SequenceState

Taken = tuple[SampledToken, str | None]
"""A sequence's next token, and why it was its last if it was."""

WATERMARK = 0.01
"""Share of the blocks that admission leaves free, so that the running ones can grow before somebody is preempted."""


class ChoosesDraftLengths(Protocol):
    def choose(self, sequences: list[Sequence], *, num_rows: int, most: int) -> list[int]:
        """Tokens that each should draft, beside `num_rows` of the step. Called while scheduling; may not block."""


class Scheduler:
    def __init__(
        self,
        cache: PagedCache,
        *,
        max_tokens_per_step: int,
        max_running_sequences: int,
        policy: SchedulingPolicy = SchedulingPolicy.CONTINUOUS,
        draft_lengths: ChoosesDraftLengths | None = None,
        watermark: float = WATERMARK,
    ) -> None:
        if max_tokens_per_step < max_running_sequences:
            raise ValueError(
                f"max_tokens_per_step ({max_tokens_per_step}) is less than max_running_sequences"
                f" ({max_running_sequences}): not every running sequence could get a token"
            )
        self.cache = cache
        self._share = FairShare()
        self.waiting = WaitingQueue(self._share)
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._max_tokens_per_step = max_tokens_per_step
        self._max_running_sequences = max_running_sequences
        self._policy = policy
        self._draft_lengths = draft_lengths
        self._watermark_blocks = int(cache.pool.num_blocks * watermark)
        self._num_following = 0
        self._num_arrived = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running) or len(self.waiting) > 0

    @property
    def num_waiting(self) -> int:
        return len(self.waiting) + self._num_following

    @property
    def num_outstanding_tokens(self) -> int:
        running = sum(sequence.num_outstanding_tokens for sequence in self.running)
        following = sum(f.num_outstanding_tokens for leader in self._leaders() for f in leader.followers)
        return running + following + self.waiting.num_outstanding_tokens

    # -- between steps ------------------------------------------------------------------------------------------

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, with its followers behind it."""
        self._num_arrived += 1
        sequence.arrival = self._num_arrived
        for follower in sequence.followers:
            follower.arrival = self._num_arrived
            follower.state = SequenceState.FOLLOWING
        self._num_following += len(sequence.followers)
        for _ in (sequence, *sequence.followers):
            self._share.enter(sequence.tenant)
        self.waiting.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Forget a sequence, whatever its state; its blocks are free at once. Followers get a new leader."""
        if sequence.state is SequenceState.FINISHED:
            return
        if sequence.state is SequenceState.FOLLOWING:
            leader = next(leader for leader in self._leaders() if sequence in leader.followers)
            leader.followers.remove(sequence)
            self._num_following -= 1
        elif sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            self.cache.free(sequence)
        self._promote_follower(sequence)
        self._share.leave(sequence.tenant)
        sequence.state = SequenceState.FINISHED

    def _leaders(self) -> list[Sequence]:
        if self._num_following == 0:
            return []
        return [sequence for sequence in (*self.running, *self.waiting) if sequence.followers]

    def _promote_follower(self, leader: Sequence) -> None:
        if leader.followers:
            heir, *heir_followers = leader.followers
            leader.followers = []
            heir.followers = heir_followers
            self._num_following -= 1
            self.waiting.add(heir)

    # -- one step -----------------------------------------------------------------------------------------------

    def schedule(self) -> ScheduledBatch:
        batch = ScheduledBatch()
        admission_is_open = self._policy is SchedulingPolicy.CONTINUOUS or not self.running
        num_kept_tokens = self._make_way(batch) if admission_is_open else 0
        num_made_way = len(batch.preempted)
        self._schedule_running(batch, num_kept_tokens)
        if admission_is_open and len(batch.preempted) == num_made_way:
            self._admit(batch)
        self._fork_followers(batch)
        if self._draft_lengths is not None:
            self._give_room_for_drafts(batch, self._draft_lengths)
        return batch

    def complete(self, batch: ScheduledBatch, sampled: list[SampledToken]) -> list[Taken]:
        """Take the step's results over: the tokens of each sampler, in turn, and what is computed now.

        Returns the tokens that were taken: not those behind one that ends its sequence. Sequences that ended are the
        caller's to `finish`. What was computed for tokens that do not stand is as if it had never been.
        """
        taken: list[Taken] = []
        ended: set[Sequence] = set()
        for token in sampled:
            if token.sequence not in ended:
                reason = token.sequence.take(token.token_id)
                taken.append((token, reason))
                if reason is not None or not token.is_valid:
                    ended.add(token.sequence)
        for item in batch.items:
            # All but the newest token of who drew one.
            num_computed_tokens = item.sequence.num_tokens - 1 if item.samplers else item.start + item.num_tokens
            self._share.charge(item.sequence.tenant, num_computed_tokens - item.start)
            # Whoever samples at all is among the samplers.
            for sequence in item.samplers or (item.sequence,):
                self.cache.advance(sequence, num_computed_tokens)
        return taken

    def finish(self, sequence: Sequence) -> None:
        assert sequence.state is SequenceState.RUNNING
        assert not sequence.followers
        self.cancel(sequence)

    def _make_way(self, batch: ScheduledBatch) -> int:
        """Preempt the last of worse lanes for the head of a better one, if that gives it a place.

        Returns the tokens of the step's budget that prefills of worse lanes leave for it.
        """
        head = self.waiting.head()
        worse = [] if head is None else [sequence for sequence in self.running if sequence.lane > head.lane]
        if head is None or not worse or not self._has_room(head, giving_way=worse):
            return 0
        while not self._has_room(head):
            self._preempt(self.running[-1], batch)
        return head.num_tokens

    def _has_room(self, sequence: Sequence, *, giving_way: list[Sequence] | None = None) -> bool:
        """A place and blocks for a waiting sequence, were the last ones of `running` that give way gone.

        What is promised counts as taken: the prompts of running sequences that are only partly computed.
        """
        leaving = giving_way or []
        staying = self.running[: len(self.running) - len(leaving)]
        prefix = self.cache.find_prefix(sequence)
        own_blocks = self.cache.blocks_to_come(sequence, prefix)
        promised_blocks = sum(self.cache.blocks_to_come(one) for one in staying)
        watermark = self._watermark_blocks if staying else 0
        free_blocks = self.cache.count_free(without=leaving, keep=prefix)
        return len(staying) < self._max_running_sequences and own_blocks + promised_blocks + watermark <= free_blocks

    def _schedule_running(self, batch: ScheduledBatch, num_kept_tokens: int) -> None:
        head = self.waiting.head()
        num_decodes_ahead = sum(1 for sequence in self.running if sequence.is_decoding)
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if sequence.is_decoding:
                num_decodes_ahead -= 1
            budget = self._max_tokens_per_step - batch.num_tokens - num_decodes_ahead
            if head is not None and sequence.lane > head.lane and not sequence.is_decoding:
                budget -= num_kept_tokens
            num_tokens = min(sequence.num_uncomputed_tokens, budget)
            if num_tokens < 1:
                index += 1
                continue
            num_preempted = len(batch.preempted)
            copies = self._make_room(sequence, sequence.num_computed_tokens + num_tokens, batch)
            if copies is None:
                break
            batch.block_copies.update(copies)
            self._put(batch, sequence, num_tokens)
            index += 1
            if len(batch.preempted) > num_preempted:
                num_decodes_ahead = sum(1 for later in self.running[index:] if later.is_decoding)

    def _make_room(self, sequence: Sequence, num_tokens: int, batch: ScheduledBatch) -> dict[int, int] | None:
        """Blocks for the sequence, at the cost of the last ones in order; None when it was the last itself."""
        while True:
            try:
                return self.cache.grow(sequence, num_tokens)
            except BlocksExhausted:
                victim = self.running[-1]
                self._preempt(victim, batch)
                if victim is sequence:
                    return None

    def _preempt(self, sequence: Sequence, batch: ScheduledBatch) -> None:
        self.running.remove(sequence)
        self.cache.free(sequence)
        sequence.request.num_preemptions += 1
        self.num_preemptions += 1
        batch.preempted.append(sequence)
        self.waiting.add(sequence)

    def _admit(self, batch: ScheduledBatch) -> None:
        while (sequence := self.waiting.head()) is not None:
            budget = self._max_tokens_per_step - batch.num_tokens
            if budget < 1 or not self._has_room(sequence):
                return
            self._start(sequence)
            num_tokens = min(sequence.num_uncomputed_tokens, budget)
            self.cache.grow(sequence, sequence.num_computed_tokens + num_tokens)
            self._put(batch, sequence, num_tokens)

    def _start(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.cache.take_prefix(sequence, self.cache.find_prefix(sequence))
        sequence.request.cached_prompt_tokens = max(
            sequence.request.cached_prompt_tokens,
            min(sequence.num_computed_tokens, sequence.num_prompt_tokens),
        )
        self._run(sequence)

    def _run(self, sequence: Sequence) -> None:
        """`running` is in order at all times: its last is who gives way."""
        sequence.state = SequenceState.RUNNING
        insort(self.running, sequence, key=lambda one: one.order_key)

    def _put(self, batch: ScheduledBatch, sequence: Sequence, num_tokens: int) -> None:
        is_decode = sequence.is_decoding and sequence.num_output_tokens > 0
        is_complete = num_tokens == sequence.num_uncomputed_tokens
        batch.items.append(
            ScheduledSequence(
                sequence=sequence,
                start=sequence.num_computed_tokens,
                num_tokens=num_tokens,
                samplers=(sequence,) if is_complete else (),
                is_decode=is_decode,
            )
        )
        if is_decode:
            batch.num_decode_tokens += num_tokens
        else:
            batch.num_prefill_tokens += num_tokens

    def _give_room_for_drafts(self, batch: ScheduledBatch, lengths: ChoosesDraftLengths) -> None:
        """Budget and blocks that nobody else has asked for in this step, but the ones that admission leaves."""
        places = [i for i, item in enumerate(batch.items) if item.is_decode and item.sequence.drafting is not None]
        budget = self._max_tokens_per_step - batch.num_tokens
        if not places or budget < 1:
            return
        wanted = lengths.choose([batch.items[i].sequence for i in places], num_rows=batch.num_tokens, most=budget)
        for index, length in zip(places, wanted, strict=True):
            sequence = batch.items[index].sequence
            num_blocks = self.cache.pool.num_free - self._watermark_blocks
            room = min(
                length,
                budget - batch.num_draft_places,
                sequence.max_output_tokens - sequence.num_output_tokens - 1,
                self.cache.room_behind(sequence, sequence.num_tokens, num_blocks=num_blocks),
            )
            if room > 0:
                self.cache.grow(sequence, sequence.num_tokens + room)
                batch.items[index] = replace(batch.items[index], draft_room=room)
                batch.num_draft_places += room

    def _fork_followers(self, batch: ScheduledBatch) -> None:
        """Where a shared prompt ends in this step, its followers start on the leader's blocks.

        Last of all, when nobody can be preempted any more. Those without a place queue like anybody else.
        """
        for index, item in enumerate(batch.items):
            if item.samplers and item.sequence.followers:
                followers, item.sequence.followers = item.sequence.followers, []
                self._num_following -= len(followers)
                forked = tuple(f for f in followers if self._fork(item.sequence, f))
                batch.items[index] = replace(item, samplers=(item.sequence, *forked))

    def _fork(self, leader: Sequence, follower: Sequence) -> bool:
        has_place = len(self.running) < self._max_running_sequences
        if not has_place or self.cache.pool.num_free <= self._watermark_blocks:
            self.waiting.add(follower)
            return False
        self.cache.fork(leader, follower)
        self._run(follower)
        return True

    # -- proof --------------------------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        self.cache.check_integrity(self.running)
        assert all(sequence.state is SequenceState.RUNNING for sequence in self.running)
        assert self.running == sorted(self.running, key=lambda one: one.order_key), "running is out of order"
        assert all(sequence.state is SequenceState.WAITING for sequence in self.waiting)
        assert not any(sequence.block_tables for sequence in self.waiting), "a waiting sequence holds blocks"
        assert len(self.running) <= self._max_running_sequences
        assert self._num_following == sum(len(leader.followers) for leader in self._leaders())
        known = [*self.running, *self.waiting, *(follower for one in self._leaders() for follower in one.followers)]
        self._share.check_integrity(Counter(sequence.tenant for sequence in known))
        assert self.waiting.num_outstanding_tokens == sum(s.num_outstanding_tokens for s in self.waiting)
        if not self.running:
            assert self.cache.pool.num_used == 0, "blocks are held though nobody runs"
