"""Arbitrary submissions, forks, drafts, steps, failures, cancellations, shortages against real scheduler and cache.

No torch. The model is a function of the tokens before; what it "computes" goes into simulated memory, cell by cell,
so that a block written by the wrong sequence, or read before it was copied, shows as a wrong value. Every step is
held against the promises: the budget, who may be admitted before whom, who gives way, that work gets done, and that
drafts take nothing from anybody and change no output.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.worker.engine.batch import Draft, SampledToken, ScheduledBatch, ScheduledSequence
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.execution.verdicts import judge_drafts
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import Drafting, RequestProgress, Sequence, SequenceState
from shared.contracts.sampling import SamplingParameters
from tests.engine_driver import make_sequence

VOCABULARY = 3
"""Small, so that prompts share prefixes by chance."""


class SimulatedMemory:
    """What lies in every cell of every block: a hash of the tenant, all tokens up to there, and the group of layers."""

    def __init__(self, geometry: CacheGeometry) -> None:
        self._block_size = geometry.block_size_tokens
        self._windows = geometry.windows
        self._cells: dict[tuple[int, int], int] = {}
        self._contents: dict[Sequence, list[int]] = {}

    def compute(self, batch: ScheduledBatch) -> None:
        """Copy blocks, write every cell of the step, then look at all that each sequence would read."""
        before = dict(self._cells) if batch.block_copies else {}
        for destination, source in batch.block_copies.items():
            for offset in range(self._block_size):
                self._cells[destination, offset] = before.get((source, offset), 0)
        for item in batch.items:
            contents = self._content(item)
            for group in range(len(self._windows)):
                for position in range(item.start, item.start + item.num_rows):
                    self._cells[self._place(item.sequence, group, position)] = contents[position] + group
        for item in batch.items:
            contents = self._content(item)
            for group, window in enumerate(self._windows):
                oldest = 0 if window is None else max(0, item.start - window + 1)
                for position in range(oldest, item.start + item.num_rows):
                    found = self._cells.get(self._place(item.sequence, group, position))
                    assert found == contents[position] + group, "somebody wrote into a shared block, or it was lost"

    def _place(self, sequence: Sequence, group: int, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self._block_size)
        table = sequence.block_tables[group]
        assert index >= table.first, "a block that is still seen was given back"
        return table.block_ids[index - table.first], offset

    def _content(self, item: ScheduledSequence) -> list[int]:
        sequence, num_tokens = item.sequence, item.start + item.num_tokens
        contents = self._contents.setdefault(sequence, [])
        for token_id in sequence.token_ids[len(contents) : num_tokens]:
            contents.append(hash((contents[-1] if contents else sequence.tenant, token_id)))
        guessed = contents[:num_tokens]
        for token_id in item.draft.token_ids:
            guessed.append(hash((guessed[-1], token_id)))
        return guessed


class AnyLengths:
    """What a chooser of draft lengths may say, which is anything: the room is the scheduler's affair."""

    def __init__(self) -> None:
        self.wishes: list[int] = []

    def choose(self, sequences: list[Sequence], *, num_rows: int, most: int) -> list[int]:
        return [self.wishes[place % len(self.wishes)] if self.wishes else 0 for place in range(len(sequences))]


def token_at(place: int, sequence: Sequence) -> int:
    """The simulated model's, behind so many tokens."""
    return (place * 7 // 2 + sequence.choice) % VOCABULARY


def next_token(sequence: Sequence, num_drafted: int = 0) -> int:
    return token_at(sequence.num_tokens + num_drafted, sequence)


@dataclass(frozen=True)
class Before:
    """The scheduler as it was before a step."""

    running: list[Sequence]
    waiting: list[Sequence]
    served: dict[str, int]
    best_lane_waiting: int | None


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(3, 24),
        block_size=st.sampled_from([1, 2, 4, 16]),
        num_places=st.integers(1, 6),
        spare_budget=st.integers(0, 20),
        policy=st.sampled_from([*SchedulingPolicy]),
        enable_prefix_cache=st.booleans(),
        windows=st.sampled_from([(None,), (None,), (7,), (1,), (None, 5), (None, 9, 9), (3, None), (4, 11)]),
        watermark_blocks=st.integers(0, 3),
    )
    def build(
        self,
        num_blocks: int,
        block_size: int,
        num_places: int,
        spare_budget: int,
        policy: SchedulingPolicy,
        enable_prefix_cache: bool,
        windows: tuple[int | None, ...],
        watermark_blocks: int,
    ) -> None:
        self.num_places, self.watermark_blocks = num_places, watermark_blocks
        self.budget = num_places + spare_budget
        self.lengths = AnyLengths()
        self.guesses = [True]
        self.policy = policy
        geometry = CacheGeometry(block_size_tokens=block_size, max_step_tokens=self.budget, windows=windows)
        self.capacity = geometry.longest_sequence(num_blocks, limit_tokens=60)
        assert self.capacity > 0
        self.cache = PagedCache(geometry, num_blocks=num_blocks, enable_prefix_cache=enable_prefix_cache)
        self.scheduler = Scheduler(
            self.cache,
            max_tokens_per_step=self.budget,
            max_running_sequences=num_places,
            policy=policy,
            draft_lengths=self.lengths,
            watermark=(watermark_blocks + 0.5) / num_blocks,
        )
        self.memory = SimulatedMemory(geometry)
        self.alive: list[Sequence] = []

    @rule(
        prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40),
        max_output_tokens=st.integers(1, 20),
        num_choices=st.sampled_from([1, 1, 2, 4]),
        order=st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([5, 99]), st.just(0)),
        tenant=st.sampled_from(["", "lake", "river"]),
        num_output_tokens=st.sampled_from([0, 0, 5]),
        speculates=st.booleans(),
        ends_at=st.sampled_from([None, None, 2]),
    )
    def submit(
        self,
        prompt: list[int],
        max_output_tokens: int,
        num_choices: int,
        order: tuple[int, int, int, int],
        tenant: str,
        num_output_tokens: int,
        speculates: bool,
        ends_at: int | None,
    ) -> None:
        """Fresh, or resumed with output that it already has; what the engine's door lets in."""
        prompt = prompt[: max(self.capacity - 1, 1)]
        num_output_tokens = min(num_output_tokens, len(prompt) - 1)
        num_prompt_tokens = len(prompt) - num_output_tokens
        limit = max(min(num_output_tokens + max_output_tokens, self.capacity - num_prompt_tokens), 1)
        request = RequestProgress(
            request_id="request",
            sampling=SamplingParameters(),
            order=order,
            cache_salt=tenant,
            ending_token_ids=frozenset() if ends_at is None else frozenset({ends_at}),
            submitted_ns=0,
        )
        choices = [
            make_sequence(
                prompt, num_output_tokens=num_output_tokens, max_output_tokens=limit, choice=choice, request=request
            )
            for choice in range(num_choices)
        ]
        for choice in choices:
            choice.drafting = Drafting(method="any", acceptance=0.5) if speculates else None
        leaders = choices
        if num_output_tokens == 0:
            choices[0].followers, leaders = choices[1:], choices[:1]
        for leader in leaders:
            self.scheduler.add(leader)
        self.alive.extend(choices)

    @precondition(lambda self: getattr(self, "alive", None))
    @rule(data=st.data(), is_broken=st.booleans())
    def cancel(self, data: Any, is_broken: bool) -> None:
        """By the caller, or because its logits were not numbers."""
        sequence = data.draw(st.sampled_from(self.alive))
        if is_broken:
            self.cache.forget(sequence)
        self.scheduler.cancel(sequence)
        self.scheduler.cancel(sequence)
        self.alive.remove(sequence)
        assert not sequence.block_tables

    @precondition(lambda self: getattr(self, "alive", None))
    @rule(
        num_steps=st.integers(1, 8),
        wishes=st.lists(st.integers(0, 9), max_size=4),
        guesses=st.lists(st.booleans(), min_size=1, max_size=7),
    )
    def steps(self, num_steps: int, wishes: list[int], guesses: list[bool]) -> None:
        """`guesses`: whether the drafts' tokens are right, one after another."""
        self.lengths.wishes, self.guesses = wishes, guesses
        for _ in range(num_steps):
            self.step()

    def step(self) -> None:
        before = self.look()
        batch = self.scheduler.schedule()
        self.budget_is_kept(batch)
        self.work_is_done(batch)
        self.the_last_gave_way(before, batch)
        self.the_first_were_admitted(before)
        self.the_head_waits_for_a_reason(before, batch)
        self.draft(batch)
        self.memory.compute(batch)
        chosen = [
            SampledToken(sequence=sequence, token_id=next_token(sequence, row))
            for item in batch.items
            for sequence in item.samplers
            for row in range(item.draft.length + 1)
        ]
        lengths = {id(item.sequence): item.sequence.num_tokens for item in batch.items}
        for token, reason in self.scheduler.complete(batch, judge_drafts(batch.items, chosen).tokens):
            sequence = token.sequence
            assert sequence.num_output_tokens <= sequence.max_output_tokens
            place = lengths.setdefault(id(sequence), sequence.num_tokens - 1)
            assert token.token_id == sequence.token_ids[place] == token_at(place, sequence), (
                "a draft changed the output"
            )
            lengths[id(sequence)] += 1
            if reason is not None:
                assert token.token_id == sequence.token_ids[-1], "something follows the last token"
                self.scheduler.finish(sequence)
                self.alive.remove(sequence)

    def draft(self, batch: ScheduledBatch) -> None:
        """Right and wrong tokens, as many as there is room for or one less."""
        for place, item in enumerate(batch.items):
            assert item.draft_room == 0 or item.sequence.drafting is not None
            if item.draft_room == 0:
                continue
            rights = [self.guesses[(place + row) % len(self.guesses)] for row in range(item.draft_room)]
            tokens = [
                next_token(item.sequence, row) if right else (next_token(item.sequence, row) + 1) % VOCABULARY
                for row, right in enumerate(rights)
            ]
            length = item.draft_room - (len(self.guesses) % 2)
            batch.items[place] = replace(item, draft=Draft(token_ids=tuple(tokens[:length])))

    def look(self) -> Before:
        share = self.scheduler._share
        waiting = list(self.scheduler.waiting)
        return Before(
            running=list(self.scheduler.running),
            waiting=waiting,
            served={sequence.tenant: share.served_tokens(sequence.tenant) for sequence in waiting},
            best_lane_waiting=min((sequence.lane for sequence in waiting), default=None),
        )

    def budget_is_kept(self, batch: ScheduledBatch) -> None:
        assert batch.num_tokens + batch.num_draft_places <= self.budget
        assert sum(item.draft_room for item in batch.items) == batch.num_draft_places
        assert sum(item.num_tokens for item in batch.items) == batch.num_tokens
        scheduled = [item.sequence for item in batch.items]
        assert len(set(map(id, scheduled))) == len(scheduled), "a sequence is twice in a step"

    def work_is_done(self, batch: ScheduledBatch) -> None:
        """The first in order advances in every step: hence somebody always ends."""
        assert bool(batch.items) == bool(self.alive), "work is left, and nothing is computed"
        running = self.scheduler.running
        assert not running or any(item.sequence is running[0] for item in batch.items), "the first does not advance"
        decoding = [one for one in running if one.is_decoding and one.num_output_tokens]
        computed = {id(sequence) for item in batch.items for sequence in (item.sequence, *item.samplers)}
        assert all(id(sequence) in computed for sequence in decoding), "a decode was left out"

    def the_last_gave_way(self, before: Before, batch: ScheduledBatch) -> None:
        lost = [one for one in before.running if one.state is SequenceState.WAITING]
        kept = [one for one in before.running if one.state is SequenceState.RUNNING]
        assert {id(one) for one in lost} <= {id(one) for one in batch.preempted}
        assert all(one.order_key < other.order_key for one in kept for other in lost), "not the last gave way"
        if before.running and not kept:
            assert before.best_lane_waiting is not None, "all gave way to nobody"
            assert before.best_lane_waiting < before.running[0].lane, "all gave way to no better lane"

    def the_first_were_admitted(self, before: Before) -> None:
        admitted = [one for one in before.waiting if one.state is SequenceState.RUNNING]
        left = [one for one in before.waiting if one.state is SequenceState.WAITING]
        if self.policy is SchedulingPolicy.STATIC:
            assert not admitted or not before.running, "a static batch was joined"
        for one in admitted:
            for other in left:
                assert one.request.order[:2] <= other.request.order[:2], "a worse lane or priority was admitted first"
                if one.request.order[:2] == other.request.order[:2]:
                    assert before.served[one.tenant] <= before.served[other.tenant], "a tenant got more than its share"
                    if one.tenant == other.tenant:
                        assert one.order_key < other.order_key, "a later deadline or arrival was admitted first"

    def the_head_waits_for_a_reason(self, before: Before, batch: ScheduledBatch) -> None:
        """Who is first in the queue is admitted once there are a place, budget and blocks for all that is promised."""
        head, running = self.scheduler.waiting.head(), self.scheduler.running
        is_closed = self.policy is SchedulingPolicy.STATIC and before.running
        if head is None or is_closed or batch.preempted:
            return
        promised = sum(self.cache.blocks_to_come(one) for one in (head, *running))
        has_blocks = promised + self.watermark_blocks <= self.cache.pool.num_free
        has_budget = batch.num_tokens < self.budget
        assert not (has_blocks and has_budget and len(running) < self.num_places), "the head waits for nothing"

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            assert self.scheduler.num_outstanding_tokens == sum(s.num_outstanding_tokens for s in self.alive)
            assert len(self.scheduler.running) + self.scheduler.num_waiting == len(self.alive)

    def teardown(self) -> None:
        """Everything ends, and every block comes home. The first in order ends within its own length at the latest,
        unless an earlier one is admitted beside it, which happens once to each: a livelock is noticed after that."""
        if not hasattr(self, "scheduler"):
            return
        while self.alive:
            num_alive = len(self.alive)
            longest = max(s.num_prompt_tokens + s.max_output_tokens for s in self.alive)
            for _ in range(num_alive * longest):
                self.step()
                if len(self.alive) < num_alive:
                    break
            assert len(self.alive) < num_alive, "nobody ends any more"
        self.scheduler.check_integrity()
        assert not self.scheduler.has_work
        assert self.cache.pool.num_free == self.cache.pool.num_blocks


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# Ten seconds when all is well. A failure is made small for up to five minutes: cut short it would not be shown.
TestScheduler.pytestmark = [pytest.mark.timeout(420)]
