"""Who may take work: a reducer from what was seen of each worker to commands. Pure but for the time it is given.

    HEALTHY --slow for 5 s--> QUARANTINED --30 s--> PROBATION --20 s without a complaint--> HEALTHY
       ^                          ^-----slow again: twice as long, at most 10 min----'
       '---- an operator's resume ends, an operator's quarantine begins and never ends by itself

A quarantined worker takes nothing new and finishes what it has. Refuses to know Kafka; the edge sends what `decide`
says, again and again until the worker's heartbeat agrees.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from services.supervisor.fleet import FleetView
from services.supervisor.outliers import Outlier
from shared.contracts.fleet import FleetCommandKind
from shared.contracts.identifiers import Incarnation, WorkerId


class Standing(StrEnum):
    HEALTHY = "healthy"
    QUARANTINED = "quarantined"
    PROBATION = "probation"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    confirm_seconds: float = 5.0
    """So long a worker has to be an outlier without a break."""
    first_seconds: float = 30.0
    longest_seconds: float = 600.0
    probation_seconds: float = 20.0
    settle_seconds: float = 5.0
    """At the start of probation nothing counts: what is known of its speed is from before."""
    repeat_seconds: float = 2.0
    """Between two commands to a worker whose heartbeat does not agree yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A command, and whether it is a change (an event) or a repetition."""

    kind: FleetCommandKind
    worker_id: WorkerId
    incarnation: Incarnation
    reason: str
    is_new: bool


@dataclass(slots=True)
class _Record:
    incarnation: Incarnation
    standing: Standing = Standing.HEALTHY
    since: float = 0.0
    times: int = 0
    is_manual: bool = False
    slow_since: float | None = None
    reason: str = ""
    told_at: float = float("-inf")
    has_changed: bool = False


class Quarantine:
    def __init__(self, rules: QuarantineRules | None = None) -> None:
        self._rules = rules or QuarantineRules()
        self._records: dict[WorkerId, _Record] = {}

    @property
    def ejected(self) -> list[WorkerId]:
        return [name for name, record in self._records.items() if record.standing is Standing.QUARANTINED]

    def standing_of(self, worker_id: WorkerId) -> Standing:
        record = self._records.get(worker_id)
        return Standing.HEALTHY if record is None else record.standing

    def order(self, worker_id: WorkerId, incarnation: Incarnation, *, is_quarantined: bool, now: float) -> None:
        """An operator's word: it holds until another one."""
        record = self._record(worker_id, incarnation)
        record.is_manual = is_quarantined
        record.times = 0
        record.slow_since = None
        standing = Standing.QUARANTINED if is_quarantined else Standing.HEALTHY
        self._change(record, standing, "an operator asked", now)
        record.has_changed = True

    def decide(self, view: FleetView, outliers: Collection[Outlier], *, now: float) -> list[Decision]:
        """Called with every look at the fleet. What is to be sent now."""
        living = {member.heartbeat.worker_id: member for member in view.living()}
        self._records = {name: record for name, record in self._records.items() if name in view.members}
        slow = {outlier.worker_id: outlier.ratio for outlier in outliers}
        decisions = []
        for worker_id, member in living.items():
            record = self._record(worker_id, member.heartbeat.incarnation)
            self._judge(record, slow.get(worker_id), now)
            wanted = record.standing is Standing.QUARANTINED
            disagrees = member.heartbeat.is_quarantined != wanted
            if record.has_changed or (disagrees and now - record.told_at >= self._rules.repeat_seconds):
                decisions.append(
                    Decision(
                        kind=FleetCommandKind.QUARANTINE if wanted else FleetCommandKind.RESUME,
                        worker_id=worker_id,
                        incarnation=record.incarnation,
                        reason=record.reason or "nothing is held against it",
                        is_new=record.has_changed,
                    )
                )
                record.told_at, record.has_changed = now, False
        return decisions

    def _record(self, worker_id: WorkerId, incarnation: Incarnation) -> _Record:
        record = self._records.get(worker_id)
        if record is None or record.incarnation != incarnation:
            # A new life starts with a clean record, unless an operator said otherwise about the name.
            is_manual = record is not None and record.is_manual
            former, record = record, _Record(incarnation)
            if is_manual and former is not None:
                record.standing, record.is_manual, record.reason = former.standing, True, former.reason
            self._records[worker_id] = record
        return record

    def _judge(self, record: _Record, ratio: float | None, now: float) -> None:
        rules = self._rules
        record.slow_since = None if ratio is None else (now if record.slow_since is None else record.slow_since)
        match record.standing:
            case Standing.QUARANTINED if not record.is_manual and now - record.since >= self._term(record):
                self._change(record, Standing.PROBATION, "its time is over; on probation", now)
            case Standing.PROBATION | Standing.HEALTHY:
                is_settling = record.standing is Standing.PROBATION and now - record.since < rules.settle_seconds
                if is_settling:
                    record.slow_since = None
                elif record.slow_since is not None and now - record.slow_since >= rules.confirm_seconds:
                    record.times += 1
                    self._change(record, Standing.QUARANTINED, f"{ratio:.1f} times as slow as its pool", now)
                elif record.standing is Standing.PROBATION and now - record.since >= rules.probation_seconds:
                    record.standing, record.since, record.times = Standing.HEALTHY, now, 0

    def _term(self, record: _Record) -> float:
        return min(self._rules.longest_seconds, self._rules.first_seconds * 2.0 ** max(0, record.times - 1))

    def _change(self, record: _Record, standing: Standing, reason: str, now: float) -> None:
        record.has_changed = record.has_changed or standing is not record.standing
        record.standing, record.since, record.reason = standing, now, reason
        record.slow_since = None
