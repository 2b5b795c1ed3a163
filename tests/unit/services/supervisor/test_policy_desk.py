"""The policies together on a fleet of heartbeats."""

from typing import Any

import pytest

from services.supervisor.autoscaling import Bounds, ScalingRules
from services.supervisor.fleet import FleetView, fold_heartbeat
from services.supervisor.policy_desk import PolicyDesk
from services.supervisor.policy_rules import PolicyRules, policy_rules
from services.supervisor.settings import SupervisorSettings
from shared.contracts.fleet import FleetCommandKind, FleetEventKind, ServiceLevelCount, WorkerState
from shared.resilience.clock import ManualClock
from shared.settings.slo import SloSettings
from tests.unit.services.supervisor.builders import heartbeat


class Fleet:
    """Workers that beat twice a second, and a desk that decides as often."""

    def __init__(self, **rules: Any) -> None:
        self.clock = ManualClock()
        self.events: list[tuple[FleetEventKind, str]] = []
        rules = {"bounds": {"default": Bounds(least=0, most=4)}, **rules}
        self.desk = PolicyDesk(
            PolicyRules(**rules), objectives=SloSettings(), name="here", clock=self.clock, note=self.note
        )
        self.view = FleetView()
        self.number = 0
        self.sent: list[tuple[FleetCommandKind, str]] = []
        self.backlog: dict[str, int] = {}

    def note(self, kind: FleetEventKind, worker_id: str, incarnation: object, detail: str) -> None:
        self.events.append((kind, detail))

    def beat(self, *workers: dict[str, Any], seconds: float = 0.5) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.move(0.5)
            self.number += 1
            for index, changes in enumerate(workers):
                told = heartbeat(f"w-{index}", self.number, **changes)
                self.desk.hear(told)
                self.view = fold_heartbeat(self.view, told, now=self.clock.monotonic(), now_ms=self.clock.now_ms()).view
            self.sent += [(decision.kind, decision.worker_id) for decision in self.desk.decide(self.view)]
            self.desk.scale(self.view, self.backlog)
            self.desk.watch_budgets()

    @property
    def desired(self) -> int:
        return self.desk.scaling["default"].desired


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_a_slow_worker_is_told_to_stop_taking_and_the_world_hears_why(fleet: Fleet) -> None:
    fleet.beat({"step_seconds": 0.01}, {"step_seconds": 0.1}, seconds=7)
    assert fleet.sent[0] == (FleetCommandKind.QUARANTINE, "w-1")
    assert (FleetEventKind.WORKER_QUARANTINED, "10.0 times as slow as its pool") in fleet.events


def test_automatic_quarantine_can_be_switched_off() -> None:
    fleet = Fleet(is_quarantine_automatic=False)
    fleet.beat({"step_seconds": 0.01}, {"step_seconds": 0.1}, seconds=20)
    assert fleet.sent == []


def test_a_silence_that_is_unlike_a_worker_is_suspected_before_the_fixed_limit(fleet: Fleet) -> None:
    fleet.beat({}, {}, seconds=10)
    fleet.beat({}, seconds=1.5)
    assert fleet.desk.suspected(fleet.view) == set()
    fleet.beat({}, seconds=1)
    assert fleet.desk.suspected(fleet.view) == {"w-1.a"}


def test_a_backlog_wants_workers_and_says_so(fleet: Fleet) -> None:
    busy = {
        "running_requests": 8,
        "queued_requests": 0,
        "lag_records": 500,
        "drained_tokens_per_second": 100.0,
        "outstanding_tokens": 800,
    }
    fleet.beat({"running_requests": 1}, seconds=16)
    fleet.beat(busy, seconds=2)
    assert fleet.desired == 3
    kind, detail = fleet.events[-1]
    assert kind is FleetEventKind.SCALING_DECIDED
    assert detail.startswith("pool default: 1 to 3 workers, a backlog of")


def test_the_time_a_worker_takes_to_start_is_measured(fleet: Fleet) -> None:
    fleet.beat({"state": WorkerState.STARTING, "max_running_requests": 0}, seconds=12)
    fleet.beat({}, seconds=1)
    assert fleet.desk.loads["default"].cold_start_seconds == pytest.approx(12, abs=0.6)


def test_a_pool_without_workers_is_woken_by_what_lies_in_kafka() -> None:
    fleet = Fleet(scaling=ScalingRules(idle_seconds=10, down_after_seconds=5))
    fleet.beat(seconds=30)
    assert fleet.desired == 0
    fleet.backlog = {"default": 3}
    fleet.beat()
    assert fleet.desired == 1


def test_an_alert_of_everybodys_objective_is_an_event_when_it_begins_and_ends(fleet: Fleet) -> None:
    def told(requests: int, failed: int) -> dict[str, Any]:
        count = ServiceLevelCount(lane="interactive", tenant="acme", requests=requests, failed=failed)
        return {"service_levels": (count,)}

    fleet.beat(told(0, 0))
    fleet.beat(told(1_000, 100))
    fleet.clock.move(7 * 3_600)
    fleet.beat(told(2_000, 100))
    details = [detail for kind, detail in fleet.events if kind is FleetEventKind.BUDGET_BURNING]
    assert details[0].startswith("interactive availability: page")
    assert "no alert any more" in details[-1] or "ticket" in details[-1]


def test_settings_become_rules() -> None:
    rules = policy_rules(SupervisorSettings(scaling="default=1..4", slow_factor=3, quarantine=False))
    assert rules.bounds == {"default": Bounds(least=1, most=4)}
    assert (rules.outliers.slow_factor, rules.is_quarantine_automatic) == (3, False)
