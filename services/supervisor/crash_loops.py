"""Tells the worker that died once from the one that dies again and again: circuit breakers per worker and per pool.

An ending (lost, engine down) is a failure, a stretch of uninterrupted readiness a success. An open breaker is an
alarm for people: the log says so once, `fleet.events` tells it, `GET /fleet` shows it. Nothing is taken from the
worker; it may be the only one. Refuses to know Kafka and Redis.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from services.supervisor.fleet import FleetView, Member, MemberState
from shared.contracts.fleet import FleetEvent, FleetEventKind
from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.resilience.clock import Clock
from shared.telemetry.breaker_reports import BreakerReports

logger = structlog.get_logger(__name__)

FAILURES = frozenset({FleetEventKind.WORKER_LOST, FleetEventKind.ENGINE_DOWN})
HEALTHY_SECONDS = 10.0


Changed = Callable[[str, BreakerState, BreakerState], None]
"""The name of what a breaker stands for, its state before and after."""


class CrashLoops:
    """One breaker for each name that `name_of` gives to workers: their own, or their pool's."""

    def __init__(
        self,
        *,
        clock: Clock,
        kind: str = "worker",
        name_of: Callable[[Member], str] = lambda member: member.heartbeat.worker_id,
        changed: Changed = lambda name, before, after: None,
        rules: BreakerRules | None = None,
    ) -> None:
        self._clock = clock
        self._kind = kind
        self._name_of = name_of
        self._changed = changed
        self._rules = rules or BreakerRules()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._reports: dict[str, _Listener] = {}
        self._credited_at: dict[str, float] = {}

    def state_of(self, name: str) -> BreakerState:
        breaker = self._breakers.get(name)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def saw(self, events: Iterable[FleetEvent], view: FleetView) -> None:
        """Count the failures among what happened; `view` is the one that they led to."""
        for event in events:
            member = view.members.get(event.worker_id)
            if event.kind not in FAILURES or member is None:
                continue
            breaker = self._of(self._name_of(member))
            was_open = breaker.is_open
            breaker.record_failure()
            if breaker.is_open and not was_open:
                logger.error(
                    f"{self._kind} keeps crashing; look at its own log",
                    worker_id=event.worker_id,
                    last_failure=event.detail,
                )

    def credit(self, view: FleetView) -> None:
        """Count a success for every stretch of readiness; forget names that the view has forgotten."""
        now = self._clock.monotonic()
        names = {self._name_of(member) for member in view.members.values()}
        for name in [known for known in self._breakers if known not in names]:
            del self._breakers[name]
            self._reports.pop(name).reports.forget()
            self._credited_at.pop(name, None)
        for member in view.members.values():
            name = self._name_of(member)
            if name not in self._breakers or member.state is not MemberState.READY:
                continue
            since = max(member.changed_at, self._credited_at.get(name, float("-inf")))
            if now - since >= HEALTHY_SECONDS:
                self._credited_at[name] = now
                self._breakers[name].record_success()

    def _of(self, name: str) -> CircuitBreaker:
        if name not in self._breakers:
            listener = _Listener(BreakerReports(self._kind, name), name, self._changed)
            self._reports[name] = listener
            self._breakers[name] = CircuitBreaker(self._rules, clock=self._clock, listener=listener)
        return self._breakers[name]


@dataclass(frozen=True, slots=True)
class _Listener:
    reports: BreakerReports
    name: str
    tell: Changed

    def changed(self, before: str, after: str) -> None:
        self.reports.changed(before, after)
        self.tell(self.name, BreakerState(before), BreakerState(after))

    def rejected(self) -> None:
        self.reports.rejected()
