"""Tells the worker that died once from the one that dies again and again: a circuit breaker per worker name.

An ending (lost, engine down) is a failure, a stretch of uninterrupted readiness a success. An open breaker is an
alarm for people: the log says so once and `GET /fleet` shows it. Nothing is taken from the worker; it may be the
only one. Refuses to know Kafka and Redis.
"""

from collections.abc import Iterable

import structlog

from services.supervisor.fleet import FleetView, MemberState
from shared.contracts.fleet import FleetEvent, FleetEventKind
from shared.contracts.identifiers import WorkerId
from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.resilience.clock import Clock

logger = structlog.get_logger(__name__)

FAILURES = frozenset({FleetEventKind.WORKER_LOST, FleetEventKind.ENGINE_DOWN})
HEALTHY_SECONDS = 10.0


class CrashLoops:
    def __init__(self, *, clock: Clock, rules: BreakerRules | None = None) -> None:
        self._clock = clock
        self._rules = rules or BreakerRules()
        self._breakers: dict[WorkerId, CircuitBreaker] = {}
        self._credited_at: dict[WorkerId, float] = {}

    def state_of(self, worker_id: WorkerId) -> BreakerState:
        breaker = self._breakers.get(worker_id)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def saw(self, events: Iterable[FleetEvent]) -> None:
        """Count the failures among what happened."""
        for event in events:
            if event.kind not in FAILURES:
                continue
            breaker = self._breakers.setdefault(event.worker_id, CircuitBreaker(self._rules, clock=self._clock))
            before = breaker.state
            breaker.record_failure()
            if breaker.is_open and before is not BreakerState.OPEN:
                logger.error(
                    "worker keeps crashing; look at its own log",
                    worker_id=event.worker_id,
                    last_failure=event.detail,
                )

    def credit(self, view: FleetView) -> None:
        """Count a success for every stretch of readiness; forget workers that the view has forgotten."""
        now = self._clock.monotonic()
        for worker_id in [known for known in self._breakers if known not in view.members]:
            del self._breakers[worker_id]
            self._credited_at.pop(worker_id, None)
        for worker_id, breaker in self._breakers.items():
            member = view.members[worker_id]
            if member.state is not MemberState.READY:
                continue
            since = max(member.changed_at, self._credited_at.get(worker_id, float("-inf")))
            if now - since >= HEALTHY_SECONDS:
                self._credited_at[worker_id] = now
                breaker.record_success()
