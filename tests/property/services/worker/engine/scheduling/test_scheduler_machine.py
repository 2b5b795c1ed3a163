"""Arbitrary submissions, forks, steps, cancellations and shortages against the real scheduler and cache, no torch.

The model is a function of the tokens before; what it "computes" goes into a simulated cache, cell by cell, so that
a block written by the wrong sequence, or read before it was copied, shows as a wrong value.
"""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.worker.engine.batch import SampledToken, ScheduledBatch
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import RequestProgress, Sequence, SequenceState
from shared.contracts.sampling import SamplingParameters
from tests.engine_driver import make_sequence

VOCABULARY = 3
"""Small, so that prompts share prefixes by chance."""


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(3, 24),
        block_size=st.sampled_from([1, 2, 4, 16]),
        num_places=st.integers(1, 6),
        spare_budget=st.integers(0, 20),
        policy=st.sampled_from(SchedulingPolicy),
        enable_prefix_cache=st.booleans(),
    )
    def build(
        self,
        num_blocks: int,
        block_size: int,
        num_places: int,
        spare_budget: int,
        policy: SchedulingPolicy,
        enable_prefix_cache: bool,
    ) -> None:
        self.block_size = block_size
        self.capacity = num_blocks * block_size
        self.budget = num_places + spare_budget
        self.cache = PagedCache(
            num_blocks=num_blocks, block_size_tokens=block_size, enable_prefix_cache=enable_prefix_cache
        )
        self.scheduler = Scheduler(
            self.cache,
            max_tokens_per_step=self.budget,
            max_running_sequences=num_places,
            policy=policy,
        )
        self.cells: dict[tuple[int, int], tuple[int, ...]] = {}
        self.alive: list[Sequence] = []

    @rule(
        prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40),
        max_output_tokens=st.integers(1, 20),
        num_choices=st.integers(1, 4),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "tenant"]),
        num_output_tokens=st.integers(0, 5),
    )
    def submit(
        self,
        prompt: list[int],
        max_output_tokens: int,
        num_choices: int,
        priority: int,
        salt: str,
        num_output_tokens: int,
    ) -> None:
        prompt = prompt[: self.capacity - 1]
        num_output_tokens = min(num_output_tokens, len(prompt) - 1)
        num_prompt_tokens = len(prompt) - num_output_tokens
        limit = max(min(num_output_tokens + max_output_tokens, self.capacity - num_prompt_tokens), 1)
        request = RequestProgress(
            request_id="request",
            sampling=SamplingParameters(),
            order=(0, priority, 0, 0),
            cache_salt=salt,
            ending_token_ids=frozenset(),
            submitted_ns=0,
        )
        choices = [
            make_sequence(
                prompt,
                num_output_tokens=num_output_tokens,
                max_output_tokens=limit,
                choice=choice,
                request=request,
            )
            for choice in range(num_choices)
        ]
        if num_output_tokens == 0:
            choices[0].followers = choices[1:]
            self.scheduler.add(choices[0])
        else:
            for choice in choices:
                self.scheduler.add(choice)
        self.alive.extend(choices)

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        if self.alive:
            sequence = data.draw(st.sampled_from(self.alive))
            self.scheduler.cancel(sequence)
            self.scheduler.cancel(sequence)
            self.alive.remove(sequence)
            assert not sequence.block_ids

    @rule(num_steps=st.integers(1, 8))
    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()

    def step(self) -> None:
        first_in_order = min(self.scheduler.running, key=lambda s: s.order_key, default=None)
        batch = self.scheduler.schedule()
        assert batch.num_tokens <= self.budget
        assert sum(item.num_tokens for item in batch.items) == batch.num_tokens
        assert bool(batch.items) == self.scheduler.has_work, "work is left, and nothing is computed"
        scheduled = [item.sequence for item in batch.items]
        assert len(set(map(id, scheduled))) == len(scheduled), "a sequence is twice in a step"
        assert first_in_order is None or first_in_order.state is SequenceState.RUNNING
        self.compute(batch)
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

    def compute(self, batch: ScheduledBatch) -> None:
        """Copy blocks, write every cell of the step, then look at all that each sequence would read."""
        before = dict(self.cells)
        for destination, source in batch.block_copies.items():
            for offset in range(self.block_size):
                self.cells[destination, offset] = before.get((source, offset), ())
        for item in batch.items:
            for position in range(item.start, item.start + item.num_tokens):
                self.cells[self.place(item.sequence, position)] = self.content(item.sequence, position)
        for item in batch.items:
            for position in range(item.start + item.num_tokens):
                found = self.cells[self.place(item.sequence, position)]
                assert found == self.content(item.sequence, position), "somebody wrote into a shared block"

    def place(self, sequence: Sequence, position: int) -> tuple[int, int]:
        index, offset = divmod(position, self.block_size)
        return sequence.block_ids[index], offset

    def content(self, sequence: Sequence, position: int) -> tuple[int, ...]:
        """Keys depend on everything before, and may not cross tenants."""
        return (len(sequence.request.cache_salt), *sequence.token_ids[: position + 1])

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            assert self.scheduler.num_outstanding_tokens == sum(s.num_outstanding_tokens for s in self.alive)
            assert len(self.scheduler.running) + self.scheduler.num_waiting == len(self.alive)

    def teardown(self) -> None:
        """Everything ends, and every block comes home."""
        if not hasattr(self, "scheduler"):
            return
        limit = 50 + 40 * sum(s.num_outstanding_tokens + len(s.token_ids) for s in self.alive)
        for _ in range(limit):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.alive, "a sequence never ended"
        self.scheduler.check_integrity()
        assert self.cache.pool.num_free == self.cache.pool.num_blocks


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
