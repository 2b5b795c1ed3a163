"""Arbitrary submissions, forks, steps, failures, cancellations and shortages against the real scheduler and cache.

No torch. The model is a function of the tokens before; what it "computes" goes into simulated memory, cell by cell,
so that a block written by the wrong sequence, or read before it was copied, shows as a wrong value. Every step is
held against the promises: the budget, who may be admitted before whom, who gives way, and that work gets done.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import RequestProgress, Sequence, SequenceState
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
            contents = self._content(item.sequence, item.start + item.num_tokens)
            for group in range(len(self._windows)):
                for position in range(item.start, item.start + item.num_tokens):
                    self._cells[self._place(item.sequence, group, position)] = contents[position] + group
        for item in batch.items:
            contents = self._content(item.sequence, item.start + item.num_tokens)
            for group, window in enumerate(self._windows):
                oldest = 0 if window is None else max(0, item.start - window + 1)
                for position in range(oldest, item.start + item.num_tokens):
                    found = self._cells.get(self._place(item.sequence, group, position))
                    assert found == contents[position] + group, "somebody wrote into a shared block, or it was lost"

    def _place(self, sequence: Sequence, group: int, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self._block_size)
        table = sequence.block_tables[group]
        assert index >= table.first, "a block that is still seen was given back"
        return table.block_ids[index - table.first], offset

    def _content(self, sequence: Sequence, num_tokens: int) -> list[int]:
        contents = self._contents.setdefault(sequence, [])
        for token_id in sequence.token_ids[len(contents) : num_tokens]:
            contents.append(hash((contents[-1] if contents else sequence.tenant, token_id)))
        return contents[:num_tokens]


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
    ) -> None:
        self.budget = num_places + spare_budget
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
    )
    def submit(
        self,
        prompt: list[int],
        max_output_tokens: int,
        num_choices: int,
        order: tuple[int, int, int, int],
        tenant: str,
        num_output_tokens: int,
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
            ending_token_ids=frozenset(),
            submitted_ns=0,
        )
        choices = [
            make_sequence(
                prompt, num_output_tokens=num_output_tokens, max_output_tokens=limit, choice=choice, request=request
            )
            for choice in range(num_choices)
        ]
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
    @rule(num_steps=st.integers(1, 8))
    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()

    def step(self) -> None:
        before = self.look()
        batch = self.scheduler.schedule()
        self.budget_is_kept(batch)
        self.work_is_done(batch)
        self.the_last_gave_way(before, batch)
        self.the_first_were_admitted(before)
        self.memory.compute(batch)
        sampled = [
            SampledToken(sequence=sequence, token_id=(len(sequence.token_ids) * 7 + sequence.choice) % VOCABULARY)
            for item in batch.items
            for sequence in item.samplers
        ]
        self.scheduler.complete(batch, sampled)
        for token in sampled:
            assert token.sequence.num_output_tokens <= token.sequence.max_output_tokens
            if token.sequence.finish_reason() is not None:
                self.scheduler.finish(token.sequence)
                self.alive.remove(token.sequence)

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
        assert batch.num_tokens <= self.budget
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
