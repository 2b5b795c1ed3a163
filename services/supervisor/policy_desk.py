"""Where the policies meet the fleet: feeds them what is heard, keeps their states, turns decisions into events.

The thin stateful shell around the pure policies (`phi_accrual`, `outliers`, `quarantine`, `autoscaling`,
`service_levels`). Called from the event loop, nothing waits. Who carries decisions out is `application.py`.
"""

import statistics
from collections.abc import Callable, Mapping

from services.supervisor.autoscaling import Bounds, PoolLoad, ScalingState, next_state
from services.supervisor.fleet import FleetView, Member, MemberState
from services.supervisor.outliers import find_outliers
from services.supervisor.phi_accrual import PhiAccrual
from services.supervisor.policy_rules import PolicyRules
from services.supervisor.quarantine import Decision, Quarantine
from services.supervisor.service_levels import EVERYBODY, ServiceLevelBook
from shared.contracts.fleet import FleetCommandKind, FleetEventKind, Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.clock import Clock
from shared.settings.slo import SloSettings
from shared.telemetry.metrics import BUDGET_BURN, DESIRED_WORKERS, QUARANTINED_WORKERS

Note = Callable[[FleetEventKind, WorkerId, Incarnation | None, str], None]
_DEFAULT_TOKENS = 128.0
_SMOOTHING = 0.3


class PolicyDesk:
    def __init__(self, rules: PolicyRules, *, objectives: SloSettings, name: str, clock: Clock, note: Note) -> None:
        self._rules = rules
        self._clock = clock
        self._note = note
        self._name = WorkerId(name)
        self._detectors: dict[Incarnation, PhiAccrual] = {}
        self._capacity: dict[WorkerId, float] = {}
        self._cold_starts: dict[str, float] = {}
        self._seen_ready: set[Incarnation] = set()
        self._alerts: dict[tuple[str, str, str], str] = {}
        self.book = ServiceLevelBook(objectives)
        self.quarantine = Quarantine(rules.quarantine)
        self.scaling: dict[str, ScalingState] = {}
        self.loads: dict[str, PoolLoad] = {}

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """The pools that are scaled."""
        return self._rules.bounds

    def hear(self, heartbeat: Heartbeat) -> None:
        now = self._clock.monotonic()
        self._detectors.setdefault(heartbeat.incarnation, PhiAccrual()).heard(now)
        self.book.observe(heartbeat, now=now)
        rate = heartbeat.drained_tokens_per_second
        if rate > 0 and (heartbeat.queued_requests or heartbeat.running_requests >= heartbeat.max_running_requests):
            known = self._capacity.get(heartbeat.worker_id, rate)
            self._capacity[heartbeat.worker_id] = known + _SMOOTHING * (rate - known)

    def phi(self, incarnation: Incarnation) -> float:
        detector = self._detectors.get(incarnation)
        return 0.0 if detector is None else detector.phi(self._clock.monotonic())

    def suspected(self, view: FleetView) -> set[Incarnation]:
        """Whose silence is too unlike them: of these it is worth asking whether they hold a lease."""
        now = self._clock.monotonic()
        return {
            member.heartbeat.incarnation
            for member in view.living()
            if now - member.heard_at >= self._rules.least_silence_seconds
            and self.phi(member.heartbeat.incarnation) >= self._rules.phi_to_suspect
        }

    def decide(self, view: FleetView) -> list[Decision]:
        """Commands to send now. Notes what is new as events."""
        outliers = []
        if self._rules.is_quarantine_automatic:
            outliers = find_outliers(view, ejected=self.quarantine.ejected, rules=self._rules.outliers)
        decisions = self.quarantine.decide(view, outliers, now=self._clock.monotonic())
        for decision in decisions:
            if decision.is_new:
                is_out = decision.kind is FleetCommandKind.QUARANTINE
                kind = FleetEventKind.WORKER_QUARANTINED if is_out else FleetEventKind.WORKER_RELEASED
                self._note(kind, decision.worker_id, decision.incarnation, decision.reason)
        QUARANTINED_WORKERS.set(len(self.quarantine.ejected))
        self._forget(view)
        return decisions

    def scale(self, view: FleetView, backlog_records: Mapping[str, int]) -> None:
        """Decide for every pool with bounds. `backlog_records`: what lies in Kafka of pools without workers."""
        now = self._clock.monotonic()
        burn = self.book.fastest_burn(now=now)
        for pool, bounds in self._rules.bounds.items():
            load = self._load(view, pool, backlog_records.get(pool, 0), burn)
            before = self.scaling.get(pool)
            state = next_state(before, load, bounds=bounds, rules=self._rules.scaling, now=now)
            self.loads[pool], self.scaling[pool] = load, state
            DESIRED_WORKERS.labels(pool).set(state.desired)
            if before is not None and state.desired != before.desired:
                detail = f"pool {pool}: {before.desired} to {state.desired} workers, {state.reason}"
                self._note(FleetEventKind.SCALING_DECIDED, self._name, None, detail)

    def watch_budgets(self) -> None:
        """Note when an alert of everybody's objectives begins or ends."""
        for report in self.book.reports(now=self._clock.monotonic()):
            if report.tenant != EVERYBODY:
                continue
            BUDGET_BURN.labels(report.lane, report.level.value).set(report.burn[300])
            key = (report.lane, report.tenant, report.level.value)
            if self._alerts.get(key, "") != report.alert:
                self._alerts[key] = report.alert
                detail = f"{report.lane} {report.level}: {report.alert or 'no alert any more'}"
                detail += f", {report.budget_left:.0%} of the budget left"
                self._note(FleetEventKind.BUDGET_BURNING, self._name, None, detail)

    def _load(self, view: FleetView, pool: str, backlog_records: int, burn: float) -> PoolLoad:
        members = [member for member in view.living() if member.heartbeat.pool == pool]
        ready = [member.heartbeat for member in members if member.state is MemberState.READY]
        workers = sum(member.state in (MemberState.STARTING, MemberState.READY) for member in members)
        self._time_starts(members)
        records = backlog_records
        records += sum(beat.queued_requests + beat.lag_records + beat.bulk_lag_records for beat in ready)
        known = sum(beat.running_requests + beat.waiting_requests for beat in ready)
        owed = sum(beat.outstanding_tokens for beat in ready)
        mean_tokens = owed / known if known and owed else _DEFAULT_TOKENS
        slots = sum(beat.max_running_requests for beat in ready)
        in_batches = sum(max(0, beat.running_requests + beat.waiting_requests - beat.queued_requests) for beat in ready)
        rates = [self._capacity[beat.worker_id] for beat in ready if beat.worker_id in self._capacity]
        return PoolLoad(
            workers=workers,
            backlog_tokens=records * mean_tokens,
            capacity=statistics.fmean(rates) if rates else 0.0,
            utilisation=in_batches / slots if slots else 0.0,
            burn=burn if records else 0.0,
            cold_start_seconds=self._cold_starts.get(pool, 0.0),
        )

    def _time_starts(self, members: list[Member]) -> None:
        """From a worker's first heartbeat to its readiness: what adding one costs in time."""
        for member in members:
            incarnation = member.heartbeat.incarnation
            if member.state is MemberState.READY and incarnation not in self._seen_ready:
                self._seen_ready.add(incarnation)
                took, pool = member.changed_at - member.joined_at, member.heartbeat.pool
                known = self._cold_starts.get(pool, took)
                self._cold_starts[pool] = known + _SMOOTHING * (took - known)

    def _forget(self, view: FleetView) -> None:
        lives = {member.heartbeat.incarnation for member in view.members.values()}
        self._detectors = {life: detector for life, detector in self._detectors.items() if life in lives}
        self._seen_ready &= lives
        self._capacity = {name: rate for name, rate in self._capacity.items() if name in view.members}
