"""Plays a load through the engine's real scheduler on a simulated clock that a cost model moves.

What is real: who is admitted, chunked and decoded in which step, and every block. What is modelled: how long a step
takes, from measurements of the engine (`StepCost`). No torch.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from services.worker.engine.batch import ScheduledBatch
from services.worker.engine.config import SchedulingPolicy
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.engine.sequence import Sequence
from services.worker.offline.chat_load import LoadRequest
from services.worker.offline.scheduler_driver import run_step, sequence_of

_BLOCK_SIZE_TOKENS = 16
_CHUNK_TOKENS = 512


class Batching(StrEnum):
    PADDED = "static, padded"
    """Prompts padded to the longest, every row computed until the last answer ends: batching before Orca."""
    STATIC = "static"
    """Nobody joins a batch, but rows that ended are no longer computed."""
    CONTINUOUS = "continuous"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of a step: reading the weights, and each token's arithmetic."""

    step_seconds: float
    prompt_token_seconds: float
    decode_token_seconds: float

    def seconds(self, *, prompt_tokens: int, decode_tokens: int) -> float:
        return self.step_seconds + prompt_tokens * self.prompt_token_seconds + decode_tokens * self.decode_token_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`utilisation`: of the places, over the time, those with a sequence that wants tokens. `padding`: of the tokens
    computed, those for nobody."""

    output_tokens_per_second: float
    mean_latency_seconds: float
    p99_latency_seconds: float
    utilisation: float
    padding: float


def simulate(requests: list[LoadRequest], batching: Batching, cost: StepCost, *, places: int, context: int) -> Outcome:
    """Until every request is answered."""
    return _Simulation(requests, batching, cost, places, context).run()


class _Simulation:
    def __init__(
        self, requests: list[LoadRequest], batching: Batching, cost: StepCost, places: int, context: int
    ) -> None:
        self._arriving = deque(enumerate(requests))
        self._arrival_of: dict[str, float] = {}
        self._latencies: list[float] = []
        self._batching, self._cost, self._places = batching, cost, places
        is_continuous = batching is Batching.CONTINUOUS
        max_tokens_per_step = _CHUNK_TOKENS if is_continuous else places * context
        geometry = CacheGeometry(block_size_tokens=_BLOCK_SIZE_TOKENS, max_step_tokens=max_tokens_per_step)
        self._scheduler = Scheduler(
            PagedCache(geometry, num_blocks=places * geometry.blocks_for(context), enable_prefix_cache=False),
            max_tokens_per_step=max_tokens_per_step,
            max_running_sequences=places,
            policy=SchedulingPolicy.CONTINUOUS if is_continuous else SchedulingPolicy.STATIC,
        )
        self._num_batch_rows = 0
        self._now = self._busy_place_seconds = 0.0
        self._num_output_tokens = self._num_computed_tokens = self._num_padding_tokens = 0

    def run(self) -> Outcome:
        while self._arriving or self._scheduler.has_work:
            self._let_arrive()
            self._step()
        self._scheduler.check_integrity()
        self._latencies.sort()
        return Outcome(
            output_tokens_per_second=self._num_output_tokens / self._now,
            mean_latency_seconds=sum(self._latencies) / len(self._latencies),
            p99_latency_seconds=self._latencies[-(-99 * len(self._latencies) // 100) - 1],
            utilisation=self._busy_place_seconds / (self._places * self._now),
            padding=self._num_padding_tokens / self._num_computed_tokens,
        )

    def _let_arrive(self) -> None:
        if not self._scheduler.has_work:
            self._now = max(self._now, self._arriving[0][1].arrival_seconds)
        while self._arriving and self._arriving[0][1].arrival_seconds <= self._now:
            number, request = self._arriving.popleft()
            self._arrival_of[str(number)] = request.arrival_seconds
            self._scheduler.add(sequence_of(request, number))

    def _step(self) -> None:
        batch, ended = run_step(self._scheduler)
        prompt_padding, decode_padding = self._padding(batch)
        seconds = self._cost.seconds(
            prompt_tokens=batch.num_prefill_tokens + prompt_padding,
            decode_tokens=batch.num_decode_tokens + decode_padding,
        )
        self._now += seconds
        self._busy_place_seconds += seconds * len(batch.items)
        self._num_padding_tokens += prompt_padding + decode_padding
        self._num_computed_tokens += batch.num_tokens + prompt_padding + decode_padding
        self._num_output_tokens += sum(len(item.samplers) for item in batch.items)
        for sequence in ended:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """Of a padded batch nobody hears before its last row ends."""
        if self._batching is not Batching.PADDED:
            self._latencies.append(self._now - self._arrival_of.pop(sequence.request.request_id))
        elif not self._scheduler.running:
            waiting = {one.request.request_id for one in self._scheduler.waiting}
            for request_id in self._arrival_of.keys() - waiting:
                self._latencies.append(self._now - self._arrival_of.pop(request_id))

    def _padding(self, batch: ScheduledBatch) -> tuple[int, int]:
        """Tokens that a padded batch computes beside these: of the prompts, of rows that have ended."""
        if self._batching is not Batching.PADDED:
            return 0, 0
        if batch.num_decode_tokens == 0:
            self._num_batch_rows = len(batch.items)
            longest = max(item.num_tokens for item in batch.items)
            return longest * len(batch.items) - batch.num_prefill_tokens, 0
        return 0, self._num_batch_rows - len(batch.items)
