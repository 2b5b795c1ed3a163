"""Which partition a request goes to: one held by the worker that the policy wants. Pure; knows heartbeats, not Kafka.

With nothing announced the answer is None: the producer hashes the key, as any producer would. A wrong guess costs
latency only: partitions of a dead worker move to the others.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.gateway.routing_policies import CHOICES, Candidate, Route, RoutingPolicy
from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation

_PREFIXES_REMEMBERED = 4_096
"""More than a pool's caches hold."""


@dataclass(slots=True)
class _Known:
    """A worker as a candidate, and whose turn its partitions are at."""

    candidate: Candidate
    turn: int = 0


class PartitionRouter:
    """The policy over workers, round robin among equals and over each worker's partitions."""

    def __init__(self, policy: RoutingPolicy = RoutingPolicy.ADAPTIVE) -> None:
        self._choose = CHOICES[policy]
        self._known: dict[Incarnation, _Known] = {}
        self._turn = 0
        self._prefixes: OrderedDict[bytes, None] = OrderedDict()

    def choose(self, workers: Sequence[Heartbeat], topic: str, route: Route | None = None) -> int | None:
        """A partition of `topic` held by the wanted one of `workers`, or None when none is announced."""
        route = route or Route()
        held = {
            worker.incarnation: (worker, partitions) for worker in workers if (partitions := _partitions(worker, topic))
        }
        if not held:
            return None
        self._forget_all_but(list(held))
        known = [self._refreshed(worker) for worker, _ in held.values()]
        self._turn += 1
        start = self._turn % len(known)
        in_turn = [entry.candidate for entry in known[start:] + known[:start]]
        chosen = self._choose(in_turn, replace(route, is_repeated=self._was_sent_before(route.affinity)))
        chosen.sent += 1
        chosen.sent_tokens += route.tokens
        incarnation = chosen.worker.incarnation
        entry, partitions = self._known[incarnation], held[incarnation][1]
        entry.turn += 1
        return partitions[entry.turn % len(partitions)]

    def _was_sent_before(self, prefix: bytes | None) -> bool:
        if prefix is None:
            return False
        was_sent = prefix in self._prefixes
        self._prefixes[prefix] = None
        self._prefixes.move_to_end(prefix)
        if len(self._prefixes) > _PREFIXES_REMEMBERED:
            self._prefixes.popitem(last=False)
        return was_sent

    def _refreshed(self, worker: Heartbeat) -> _Known:
        known = self._known.get(worker.incarnation)
        if known is None:
            known = self._known[worker.incarnation] = _Known(Candidate(worker=worker))
        elif known.candidate.worker.sequence_number != worker.sequence_number:
            known.candidate.worker = worker
            known.candidate.sent = known.candidate.sent_tokens = 0
        return known

    def _forget_all_but(self, incarnations: Sequence[Incarnation]) -> None:
        if len(self._known) > 4 * len(incarnations):
            self._known = {name: self._known[name] for name in incarnations if name in self._known}


def _partitions(worker: Heartbeat, topic: str) -> list[int]:
    return [partition for name, partition in worker.partitions if name == topic]
