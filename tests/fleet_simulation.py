"""A simulated pool: workers with batches, speeds and heartbeats, on a manual clock. Policies are tried on it.

Time goes in steps. A worker serves as many requests at a time as its batch has places, each at its own speed, and says
what a real one says, twice a second.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.clock import ManualClock
from tests.fakes.served_gateway import HEARTBEAT, TOPIC

STEP_SECONDS = 0.05
BEAT_SECONDS = 0.5
_RATE_SECONDS = 5.0


@dataclass
class Job:
    """One request in the simulation. `asks` output tokens, needs `needs` of them."""

    name: str
    asks: float
    needs: float
    came_at: float
    started_at: float = -1.0
    ended_at: float = -1.0
    left: float = 0.0

    @property
    def waited(self) -> float:
        return self.started_at - self.came_at

    @property
    def took(self) -> float:
        return self.ended_at - self.came_at


@dataclass
class SimulatedWorker:
    name: str
    clock: ManualClock
    slots: int = 8
    tokens_per_second: float = 10.0
    """Of one request in the batch."""
    partitions: tuple[int, ...] = (0,)
    queue: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    number: int = 0
    _drained: deque[tuple[float, float]] = field(default_factory=deque)

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def step(self) -> None:
        now = self.clock.monotonic()
        while self.queue and len(self.running) < self.slots:
            job = self.queue.popleft()
            job.started_at, job.left = now, job.needs
            self.running.append(job)
        drained = 0.0
        for job in list(self.running):
            job.left -= self.tokens_per_second * STEP_SECONDS
            drained += self.tokens_per_second * STEP_SECONDS
            if job.left <= 0:
                job.ended_at = now
                drained += job.asks - job.needs
                self.running.remove(job)
                self.done.append(job)
        self._drained.append((now, drained))
        while self._drained[0][0] <= now - _RATE_SECONDS:
            self._drained.popleft()

    def heartbeat(self, **changes: Any) -> Heartbeat:
        self.number += 1
        open_tokens = sum(job.left + job.asks - job.needs for job in self.running) + sum(job.asks for job in self.queue)
        beat = replace(
            HEARTBEAT,
            worker_id=WorkerId(self.name),
            incarnation=Incarnation(f"{self.name}.1"),
            sequence_number=self.number,
            sent_at_ms=self.clock.now_ms(),
            partitions=tuple((TOPIC, partition) for partition in self.partitions),
            max_running_requests=self.slots,
            running_requests=len(self.running) + len(self.queue),
            queued_requests=len(self.queue),
            kv_blocks_total=100_000,
            kv_blocks_free=100_000,
            outstanding_tokens=round(open_tokens),
            drained_tokens_per_second=sum(tokens for _, tokens in self._drained) / _RATE_SECONDS,
            step_seconds=1 / self.tokens_per_second,
        )
        return replace(beat, **changes)
