"""Which of several workers a request goes to: five rules over what is known of each. Pure.

A candidate's load is what its heartbeat said plus what was sent since. Refuses to know partitions and Kafka.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.fleet import Heartbeat

AFFINITY_SLACK = 1.5
"""A worker that has the prefix may take so many times as long as the best one: reading a prompt again costs less."""
NEW_PREFIX_SLACK = 1.1
"""A prefix that nobody has read yet spares nothing where it goes; among nearly equal workers it gets its place."""
_UNKNOWN_STEP_SECONDS = 0.01


class RoutingPolicy(StrEnum):
    ROUND_ROBIN = "round-robin"
    LEAST_TOKENS = "least-tokens"
    WEIGHTED = "weighted"
    ADAPTIVE = "adaptive"
    AFFINITY = "affinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What matters of a request: the output tokens it asks for, and whose KV cache might know its beginning."""

    tokens: int = 1
    affinity: bytes | None = None
    is_repeated: bool = False
    """Its beginning was sent before."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A worker and what was sent to it since its last heartbeat; `credit` is the weighted rule's."""

    worker: Heartbeat
    sent: int = 0
    sent_tokens: int = 0
    credit: float = 0.0

    @property
    def in_hand(self) -> int:
        return self.worker.running_requests + self.worker.waiting_requests + self.worker.lag_records + self.sent

    @property
    def slots(self) -> int:
        return max(1, self.worker.max_running_requests)


Choose = Callable[[Sequence[Candidate], Route], Candidate]
"""The candidates are in turn order: the first of equals is whose turn it is. Never empty."""


def round_robin(candidates: Sequence[Candidate], route: Route) -> Candidate:
    return candidates[0]


def least_tokens(candidates: Sequence[Candidate], route: Route) -> Candidate:
    """Fewest tokens still owed, relative to the size of the batch that works on them."""

    def owed(candidate: Candidate) -> float:
        return (candidate.worker.outstanding_tokens + candidate.sent_tokens) / candidate.slots

    return min(candidates, key=owed)


def weighted(candidates: Sequence[Candidate], route: Route) -> Candidate:
    """In proportion to speed, evenly spread. Source: nginx, smooth weighted round-robin, 2012."""
    weights = [candidate.slots / step for candidate, step in zip(candidates, step_seconds(candidates), strict=True)]
    for candidate, weight in zip(candidates, weights, strict=True):
        candidate.credit += weight
    chosen = max(candidates, key=lambda candidate: candidate.credit)
    chosen.credit -= sum(weights)
    return chosen


def adaptive(candidates: Sequence[Candidate], route: Route) -> Candidate:
    """Where it would be complete first."""
    times = predicted_seconds(candidates, route)
    return candidates[min(range(len(candidates)), key=times.__getitem__)]


def affinity(candidates: Sequence[Candidate], route: Route) -> Candidate:
    """Where its prefix was sent before, unless that takes much longer than the best; then the next such place.

    Source: D. Thaler, C. Ravishankar, rendezvous hashing, 1996; V. Mirrokni, M. Thorup, M. Zadimoghaddam,
    "Consistent Hashing with Bounded Loads", 2016, with the bound in predicted time instead of in number.
    """
    if route.affinity is None:
        return adaptive(candidates, route)
    key = route.affinity
    times = predicted_seconds(candidates, route)
    bound = (AFFINITY_SLACK if route.is_repeated else NEW_PREFIX_SLACK) * min(times)
    allowed = [candidate for candidate, seconds in zip(candidates, times, strict=True) if seconds <= bound]
    return max(allowed, key=lambda candidate: _rank(key, candidate.worker.worker_id))


CHOICES: dict[RoutingPolicy, Choose] = {
    RoutingPolicy.ROUND_ROBIN: round_robin,
    RoutingPolicy.LEAST_TOKENS: least_tokens,
    RoutingPolicy.WEIGHTED: weighted,
    RoutingPolicy.ADAPTIVE: adaptive,
    RoutingPolicy.AFFINITY: affinity,
}


def predicted_seconds(candidates: Sequence[Candidate], route: Route) -> list[float]:
    """From now to its last token, at each: the turns of the queue ahead, then its own tokens."""
    steps = step_seconds(candidates)
    return [_predicted(candidate, step, route.tokens) for candidate, step in zip(candidates, steps, strict=True)]


def _predicted(candidate: Candidate, step: float, tokens: int) -> float:
    known = candidate.worker.running_requests + candidate.worker.waiting_requests
    mean_tokens = max(1.0, candidate.worker.outstanding_tokens / known) if known else max(1, tokens)
    queued = max(0, candidate.in_hand + 1 - candidate.slots)
    # A request in a batch with room is a little slower for every neighbour; of two equal workers the emptier one wins.
    crowding = 1 + 0.1 * min(1.0, candidate.in_hand / candidate.slots)
    return queued * mean_tokens * step / candidate.slots + tokens * step * crowding


def step_seconds(candidates: Sequence[Candidate]) -> list[float]:
    """Of each; a worker that has not told yet is taken for the fastest, so that it is tried."""
    known = [candidate.worker.step_seconds for candidate in candidates if candidate.worker.step_seconds > 0]
    fastest = min(known, default=_UNKNOWN_STEP_SECONDS)
    return [candidate.worker.step_seconds or fastest for candidate in candidates]


def _rank(key: bytes, worker_id: str) -> bytes:
    return hashlib.blake2b(key + b"\0" + worker_id.encode(), digest_size=8).digest()
