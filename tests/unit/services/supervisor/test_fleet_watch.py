import pytest
from structlog.testing import capture_logs

from services.supervisor.failure_detector import DetectionRules
from services.supervisor.fleet_watch import FleetWatch
from shared.contracts.fleet import FleetEvent, FleetEventKind, WorkerState
from shared.contracts.identifiers import Incarnation
from shared.resilience.breaker_rules import BreakerState
from shared.resilience.clock import ManualClock
from shared.telemetry.catalogue import REGISTRY
from tests.unit.services.supervisor.builders import heartbeat

W0A = Incarnation("w-0.a")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(clock: ManualClock) -> FleetWatch:
    return FleetWatch(
        clock=clock,
        rules=DetectionRules(silent_after_seconds=5.0, deaf_after_seconds=2.5),
        kept_events=5,
        forget_after_seconds=60,
    )


def drained(watch: FleetWatch) -> list[FleetEventKind]:
    """What would be published, publishing it."""
    kinds = []
    while (event := watch.next_unpublished()) is not None:
        kinds.append(event.kind)
        watch.published(event)
    return kinds


def test_events_are_published_in_order_and_once(watch: FleetWatch) -> None:
    watch.hear(heartbeat())
    watch.judge([W0A])
    watch.judge([W0A])
    assert drained(watch) == [
        FleetEventKind.WORKER_JOINED,
        FleetEventKind.WORKER_READY,
        FleetEventKind.WORKER_LOST,
    ]
    assert drained(watch) == []


def test_an_event_that_could_not_be_published_stays_the_next_one(watch: FleetWatch) -> None:
    watch.hear(heartbeat())
    assert watch.next_unpublished() is watch.next_unpublished()


def test_who_does_not_lead_publishes_nothing_but_remembers(watch: FleetWatch) -> None:
    watch.hear(heartbeat())
    watch.drop_unpublished()
    assert drained(watch) == []
    assert len(watch.recent_events) == 2


def test_recent_events_are_bounded(watch: FleetWatch) -> None:
    for number in range(20):
        watch.hear(heartbeat(f"w-{number}"))
    assert len(watch.recent_events) == 5


def test_an_event_that_was_pushed_out_is_not_mistaken_for_its_successor(watch: FleetWatch) -> None:
    watch.hear(heartbeat())
    first = watch.next_unpublished()
    assert first is not None
    watch.published(first)
    watch.published(first)
    assert drained(watch) == [FleetEventKind.WORKER_READY]


def test_the_gauge_falls_to_zero_when_a_state_is_empty_again(watch: FleetWatch) -> None:
    def shown(state: str) -> float | None:
        return REGISTRY.get_sample_value("penstock_workers", {"pool": "gauge", "state": state})

    watch.hear(heartbeat("g-0", pool="gauge"))
    watch.judge(())
    assert shown("ready") == 1
    watch.judge([Incarnation("g-0.a")])
    assert (shown("ready"), shown("lost")) == (0, 1)


def test_the_gone_are_forgotten(watch: FleetWatch, clock: ManualClock) -> None:
    watch.hear(heartbeat())
    watch.judge([W0A])
    clock.move(61)
    watch.judge(())
    assert watch.view.members == {}


def test_two_living_workers_of_one_name_are_reported_once(watch: FleetWatch) -> None:
    watch.hear(heartbeat(number=1))
    watch.hear(heartbeat(life="b", sent_at_ms=2_000))
    with capture_logs() as logs:
        for number in range(10, 13):
            watch.hear(heartbeat(number=number))
    assert [line["log_level"] for line in logs] == ["error"]
    assert "w-0.a" in logs[0]["incarnations"]


def test_a_late_heartbeat_of_a_former_life_is_no_twin(watch: FleetWatch) -> None:
    watch.hear(heartbeat(number=1))
    watch.hear(heartbeat(life="b", sent_at_ms=2_000))
    with capture_logs() as logs:
        watch.hear(heartbeat(number=2))
    assert logs == []


def crash(watch: FleetWatch, number: int) -> None:
    watch.hear(heartbeat(number=2 * number, state=WorkerState.READY))
    watch.hear(heartbeat(number=2 * number + 1, state=WorkerState.ENGINE_DOWN))


def test_a_worker_that_crashes_five_times_in_a_row_is_reported_once(watch: FleetWatch) -> None:
    with capture_logs() as logs:
        for number in range(1, 8):
            crash(watch, number)
    assert watch.crash_loops.state_of(heartbeat().worker_id) is BreakerState.OPEN
    errors = [line["event"] for line in logs if line["log_level"] == "error"]
    assert errors == ["worker keeps crashing; look at its own log", "pool keeps crashing; look at its own log"]


def test_crashes_with_healthy_stretches_between_them_are_no_loop(watch: FleetWatch, clock: ManualClock) -> None:
    for number in range(1, 10):
        crash(watch, 10 * number)
        watch.hear(heartbeat(number=20 * number + 2))
        clock.move(10)
        watch.hear(heartbeat(number=20 * number + 3))
        watch.judge(())
    assert watch.crash_loops.state_of(heartbeat().worker_id) is BreakerState.CLOSED


def test_a_crash_loop_that_has_healed_closes_after_three_healthy_stretches(
    watch: FleetWatch, clock: ManualClock
) -> None:
    for number in range(1, 6):
        crash(watch, number)
    clock.move(30)
    watch.hear(heartbeat(number=100))
    for _ in range(3):
        assert watch.crash_loops.state_of(heartbeat().worker_id) is BreakerState.HALF_OPEN
        clock.move(10)
        watch.hear(heartbeat(number=watch.view.members[heartbeat().worker_id].heartbeat.sequence_number + 1))
        watch.judge(())
    assert watch.crash_loops.state_of(heartbeat().worker_id) is BreakerState.CLOSED


def test_the_supervisors_own_deeds_are_events_too(watch: FleetWatch) -> None:
    event = FleetEvent(
        kind=FleetEventKind.SUPERVISOR_ELECTED,
        worker_id=heartbeat().worker_id,
        incarnation=None,
        occurred_at_ms=1,
        detail="fence 1",
    )
    watch.note(event)
    assert drained(watch) == [FleetEventKind.SUPERVISOR_ELECTED]


def test_breakers_that_change_are_events_of_the_worker_and_of_its_pool(watch: FleetWatch) -> None:
    for number in range(1, 6):
        crash(watch, number)
    changes = []
    while (event := watch.next_unpublished()) is not None:
        watch.published(event)
        if event.kind is FleetEventKind.BREAKER_CHANGED:
            changes.append((event.worker_id, event.detail))
    assert changes == [
        ("w-0", "breaker of the worker: closed to open"),
        ("default", "breaker of the pool: closed to open"),
    ]
