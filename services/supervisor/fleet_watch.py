"""Holds the current fleet view: hears heartbeats, applies verdicts, keeps the events and the gauges of both.

The thin stateful shell around the pure parts (`fleet`, `failure_detector`, `crash_loops`). Everything is called from
the event loop and nothing waits. Refuses to know where heartbeats come from and who is told of events.
"""

from collections import deque
from collections.abc import Collection, Sequence

import structlog

from services.supervisor.crash_loops import CrashLoops
from services.supervisor.failure_detector import DetectionRules, find_losses, silent
from services.supervisor.fleet import (
    FleetView,
    Fold,
    MemberState,
    Reception,
    fold_heartbeat,
    fold_losses,
    forget,
)
from shared.contracts.fleet import FleetEvent, FleetEventKind, Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.breaker_rules import BreakerState
from shared.resilience.clock import Clock
from shared.telemetry.metrics import FLEET_EVENTS, HEARTBEATS, WORKERS

logger = structlog.get_logger(__name__)

_ALARMING = frozenset({FleetEventKind.WORKER_LOST, FleetEventKind.ENGINE_DOWN})
_MOST_UNPUBLISHED = 1_000


class FleetWatch:
    def __init__(self, *, clock: Clock, rules: DetectionRules, kept_events: int, forget_after_seconds: float) -> None:
        self._clock = clock
        self._rules = rules
        self._forget_after_seconds = forget_after_seconds
        self._counted: set[tuple[str, MemberState]] = set()
        self._unpublished: deque[FleetEvent] = deque(maxlen=_MOST_UNPUBLISHED)
        self._twins: set[Incarnation] = set()
        self.crash_loops = CrashLoops(clock=clock, changed=self._worker_breaker_changed)
        self.pool_crash_loops = CrashLoops(
            clock=clock,
            kind="pool",
            name_of=lambda member: member.heartbeat.pool,
            changed=self._pool_breaker_changed,
        )
        self.recent_events: deque[FleetEvent] = deque(maxlen=kept_events)
        self.view = FleetView()
        self.leaseless: frozenset[Incarnation] = frozenset()

    def hear(self, heartbeat: Heartbeat) -> None:
        fold = fold_heartbeat(self.view, heartbeat, now=self._clock.monotonic(), now_ms=self._clock.now_ms())
        HEARTBEATS.labels(fold.reception.value).inc()
        if fold.reception is Reception.SUPERSEDED:
            self._suspect_twin(heartbeat)
        self._apply(fold)

    def silent(self) -> list[Incarnation]:
        return silent(self.view, now=self._clock.monotonic(), rules=self._rules)

    def judge(
        self,
        leaseless: Collection[Incarnation],
        *,
        leased: Collection[Incarnation] = (),
        unleased: Collection[Incarnation] = (),
        suspected: Collection[Incarnation] = (),
    ) -> None:
        """Apply what the leases and the silence say. Called every watch interval."""
        now, now_ms = self._clock.monotonic(), self._clock.now_ms()
        self.leaseless = frozenset(leaseless)
        losses = find_losses(
            self.view,
            leaseless=self.leaseless,
            now=now,
            rules=self._rules,
            leased=leased,
            unleased=unleased,
            suspected=suspected,
        )
        self._apply(fold_losses(self.view, losses, now=now, now_ms=now_ms))
        self.view = forget(self.view, now=now, after_seconds=self._forget_after_seconds)
        self.crash_loops.credit(self.view)
        self.pool_crash_loops.credit(self.view)
        self._count()

    def note(self, event: FleetEvent) -> None:
        """Something that the supervisor itself did."""
        self._tell((event,))

    def next_unpublished(self) -> FleetEvent | None:
        return self._unpublished[0] if self._unpublished else None

    def published(self, event: FleetEvent) -> None:
        """`event` was the next one; it may have been pushed out by newer ones in the meantime."""
        if self._unpublished and self._unpublished[0] is event:
            self._unpublished.popleft()

    def drop_unpublished(self) -> None:
        """Somebody else is the leader and tells the world."""
        self._unpublished.clear()

    def _apply(self, fold: Fold) -> None:
        self.view = fold.view
        self._tell(fold.events)
        self.crash_loops.saw(fold.events, fold.view)
        self.pool_crash_loops.saw(fold.events, fold.view)

    def _worker_breaker_changed(self, name: str, before: BreakerState, after: BreakerState) -> None:
        self._breaker_changed(WorkerId(name), f"breaker of the worker: {before} to {after}")

    def _pool_breaker_changed(self, name: str, before: BreakerState, after: BreakerState) -> None:
        self._breaker_changed(WorkerId(name), f"breaker of the pool: {before} to {after}")

    def _breaker_changed(self, name: WorkerId, detail: str) -> None:
        event = FleetEvent(
            kind=FleetEventKind.BREAKER_CHANGED,
            worker_id=name,
            incarnation=None,
            occurred_at_ms=self._clock.now_ms(),
            detail=detail,
        )
        self._tell((event,))

    def _tell(self, events: Sequence[FleetEvent]) -> None:
        for event in events:
            FLEET_EVENTS.labels(event.kind.value).inc()
            self.recent_events.append(event)
            self._unpublished.append(event)
            report = logger.warning if event.kind in _ALARMING else logger.info
            report(
                event.kind.value,
                worker_id=event.worker_id,
                incarnation=event.incarnation,
                detail=event.detail,
            )

    def _suspect_twin(self, heartbeat: Heartbeat) -> None:
        """A few late heartbeats of a former life are normal; one sent after its successor began is not."""
        member = self.view.members.get(heartbeat.worker_id)
        if member is None or heartbeat.incarnation in self._twins:
            return
        if heartbeat.sent_at_ms > member.heartbeat.sent_at_ms:
            self._twins.add(heartbeat.incarnation)
            logger.error(
                "two living workers have one name; give each its own PENSTOCK_WORKER_NAME",
                worker_id=heartbeat.worker_id,
                incarnations=[heartbeat.incarnation, member.heartbeat.incarnation],
            )

    def _count(self) -> None:
        counts = self.view.counts()
        for pool, state in self._counted - counts.keys():
            WORKERS.labels(pool, state.value).set(0)
        for (pool, state), count in counts.items():
            WORKERS.labels(pool, state.value).set(count)
        self._counted |= counts.keys()
