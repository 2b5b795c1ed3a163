"""Plays a load through the real engine and model: every step is computed, and its measured time moves the clock.

Nobody waits for arrivals: between them an idle engine's clock jumps. What the simulation models is measured here; what
stays modelled is only when requests come. A padded batch is made as servers made it before Orca: prompts filled up to
the longest, every row computed until the longest answer ends.
"""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from services.worker.engine.events import ChoiceStart, EngineReady, StepResult, StepStatistics, Submit
from services.worker.offline.batch_run import BatchEngine
from services.worker.offline.batching_simulation import Batching, Outcome, StepCost
from services.worker.offline.chat_load import LoadRequest
from shared.contracts.sampling import SamplingParameters


@dataclass(slots=True)
class _Asked:
    """`output_tokens` are wanted; a padded row computes more."""

    arrival_seconds: float
    output_tokens: int
    produced_tokens: int = 0

    @property
    def wants_tokens(self) -> bool:
        return self.produced_tokens < self.output_tokens


@dataclass(slots=True)
class BatchingRun:
    """One load through one engine. `run` once; raises ValueError when the engine refuses a request of the load."""

    engine: BatchEngine
    batching: Batching
    places: int
    steps: list[StepStatistics] = field(default_factory=list)
    _open: dict[str, _Asked] = field(default_factory=dict)
    _latencies: list[float] = field(default_factory=list)
    _now: float = 0.0
    _busy_place_seconds: float = 0.0
    _num_output_tokens: int = 0
    _num_padding_tokens: int = 0

    def run(self, requests: list[LoadRequest]) -> Outcome:
        arriving = deque(enumerate(requests))
        while arriving or self.engine.has_work:
            self._let_arrive(arriving)
            self._count(self.engine.step())
        computed = sum(step.num_prefill_tokens + step.num_decode_tokens for step in self.steps)
        latencies = sorted(self._latencies)
        return Outcome(
            output_tokens_per_second=self._num_output_tokens / self._now,
            mean_latency_seconds=sum(latencies) / len(latencies),
            p99_latency_seconds=latencies[-(-99 * len(latencies) // 100) - 1],
            utilisation=self._busy_place_seconds / (self.places * self._now),
            padding=self._num_padding_tokens / computed,
        )

    def _let_arrive(self, arriving: "deque[tuple[int, LoadRequest]]") -> None:
        if not self.engine.has_work and arriving:
            self._now = max(self._now, arriving[0][1].arrival_seconds)
        if self.batching is Batching.PADDED and self.engine.has_work:
            return
        most = self.places if self.batching is Batching.PADDED else len(arriving)
        come: list[tuple[int, LoadRequest]] = []
        while arriving and arriving[0][1].arrival_seconds <= self._now and len(come) < most:
            come.append(arriving.popleft())
        is_padded = self.batching is Batching.PADDED
        longest_prompt = max((one.num_prompt_tokens for _, one in come), default=0) if is_padded else 0
        longest_output = max((one.num_output_tokens for _, one in come), default=0) if is_padded else 0
        for number, request in come:
            prompt_tokens = max(request.num_prompt_tokens, longest_prompt)
            self._num_padding_tokens += prompt_tokens - request.num_prompt_tokens
            self._open[str(number)] = _Asked(request.arrival_seconds, request.num_output_tokens)
            output_tokens = max(request.num_output_tokens, longest_output)
            self.engine.submit(_submission(number, prompt_tokens, output_tokens, self.engine.ready))

    def _count(self, result: StepResult) -> None:
        for rejected in result.rejected:
            raise ValueError(f"the engine refuses the benchmark's request: {rejected.message}")
        statistics = result.statistics
        ended = [event.request_id for event in result.tokens if event.finish_reason is not None]
        is_padded = self.batching is Batching.PADDED
        wanting = statistics.num_running + len(ended)
        if is_padded:
            wanting = sum(one.wants_tokens for one in self._open.values())
        self.steps.append(statistics)
        self._now += statistics.duration_seconds
        self._busy_place_seconds += statistics.duration_seconds * wanting
        for event in result.tokens:
            asked = self._open[event.request_id]
            if asked.wants_tokens:
                self._num_output_tokens += len(event.token_ids)
            else:
                self._num_padding_tokens += len(event.token_ids)
            asked.produced_tokens += len(event.token_ids)
        # Of a padded batch nobody hears before its last row ends, which is in the same step for all.
        for request_id in ended:
            self._latencies.append(self._now - self._open.pop(request_id).arrival_seconds)


def _submission(number: int, prompt_tokens: int, output_tokens: int, ready: EngineReady) -> Submit:
    prompt = random.Random(number).choices(range(ready.vocabulary_size), k=prompt_tokens)
    return Submit(
        request_id=str(number),
        choices=[ChoiceStart(index=0, prompt_token_ids=prompt)],
        sampling=SamplingParameters(temperature=0.0, max_tokens=output_tokens, ignore_eos=True),
        eos_token_ids=[],
        order=(0, 0, 0, number),
    )


def fitted_cost(steps: list[StepStatistics]) -> StepCost:
    """What the run's own steps cost, by least squares over them."""
    counts = np.array([[1, step.num_prefill_tokens, step.num_decode_tokens] for step in steps], dtype=np.float64)
    seconds = np.array([step.duration_seconds for step in steps])
    base, prompt, decode = np.linalg.lstsq(counts, seconds, rcond=None)[0].clip(min=0).tolist()
    return StepCost(step_seconds=base, prompt_token_seconds=prompt, decode_token_seconds=decode)
