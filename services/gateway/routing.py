"""Which partition a request goes to: one of the least loaded worker's. Pure; knows heartbeats, not Kafka.

Load is what a worker last said of itself plus what this gateway sent it since, relative to how many requests it
runs at a time. With nothing announced the answer is None: the producer hashes the key, as any producer would.
A wrong guess costs latency only: partitions of a dead worker move to the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation


@dataclass(slots=True)
class _Recent:
    """What was sent to a worker since the heartbeat with this number, and whose turn its partitions are at."""

    sequence_number: int
    sent: int = 0
    turn: int = 0


class PartitionRouter:
    """Least outstanding over workers, round robin over each worker's partitions and among equals."""

    def __init__(self) -> None:
        self._recent: dict[Incarnation, _Recent] = {}
        self._turn = 0

    def choose(self, workers: Sequence[Heartbeat], topic: str) -> int | None:
        """A partition of `topic` held by the least loaded of `workers`, or None when none is announced."""
        held = [(worker, partitions) for worker in workers if (partitions := _partitions(worker, topic))]
        if not held:
            return None
        self._forget_all_but([worker.incarnation for worker, _ in held])
        self._turn += 1
        start = self._turn % len(held)
        worker, partitions = min(held[start:] + held[:start], key=lambda candidate: self._load(candidate[0]))
        recent = self._recent_of(worker)
        recent.sent += 1
        recent.turn += 1
        return partitions[recent.turn % len(partitions)]

    def _load(self, worker: Heartbeat) -> float:
        outstanding = worker.running_requests + worker.waiting_requests + self._recent_of(worker).sent
        return outstanding / max(1, worker.max_running_requests)

    def _recent_of(self, worker: Heartbeat) -> _Recent:
        recent = self._recent.get(worker.incarnation)
        if recent is None:
            recent = self._recent[worker.incarnation] = _Recent(worker.sequence_number)
        elif recent.sequence_number != worker.sequence_number:
            recent.sequence_number = worker.sequence_number
            recent.sent = 0
        return recent

    def _forget_all_but(self, incarnations: Sequence[Incarnation]) -> None:
        if len(self._recent) > 4 * len(incarnations):
            self._recent = {name: self._recent[name] for name in incarnations if name in self._recent}


def _partitions(worker: Heartbeat, topic: str) -> list[int]:
    return [partition for name, partition in worker.partitions if name == topic]
