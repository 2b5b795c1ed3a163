"""How long a request would wait, by heartbeats."""

from typing import Any

import pytest

from services.gateway.capacity_model import CapacityModel, Forecast
from shared.contracts.fleet import Heartbeat
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.clock import ManualClock
from tests.fakes.served_gateway import heartbeat


def worker(name: str = "a", **changes: Any) -> Heartbeat:
    return heartbeat(worker_id=WorkerId(name), incarnation=Incarnation(f"{name}.1"), **changes)


def full(name: str = "a", *, queued: int = 0, rate: float = 80.0, **changes: Any) -> Heartbeat:
    """8 in the batch, 10 tokens each: `rate / 10` requests a second."""
    values = {
        "running_requests": 8 + queued,
        "queued_requests": queued,
        "drained_tokens_per_second": rate,
        "outstanding_tokens": 10 * (8 + queued),
    }
    return worker(name, **(values | changes))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def model(clock: ManualClock) -> CapacityModel:
    return CapacityModel(clock=clock)


def forecast(model: CapacityModel, *fleet: Heartbeat) -> Forecast:
    for beat in fleet:
        model.observe(beat)
    return model.forecast("default", fleet)


def test_room_in_a_batch_is_no_wait(model: CapacityModel) -> None:
    assert forecast(model, worker(running_requests=7)).wait_seconds == 0


def test_a_full_batch_without_a_measured_rate_is_unknown(model: CapacityModel) -> None:
    assert forecast(model, full(rate=0.0)).wait_seconds is None
    assert forecast(model).wait_seconds is None, "nobody is there"


def test_the_wait_is_the_queue_and_oneself_over_the_rate(model: CapacityModel) -> None:
    found = forecast(model, full(queued=7))
    assert found.wait_seconds == pytest.approx(8 * 10 / 80)
    assert found.requests_per_second == pytest.approx(8)


def test_what_waits_in_kafka_waits_too(model: CapacityModel) -> None:
    assert forecast(model, full(lag_records=15)).wait_seconds == pytest.approx(16 * 10 / 80)


def test_a_rate_measured_with_room_to_spare_is_not_the_capacity(model: CapacityModel) -> None:
    model.observe(full(rate=80))
    model.observe(worker(running_requests=1, drained_tokens_per_second=5.0))
    assert forecast(model, full(rate=80)).requests_per_second == pytest.approx(8)


def test_the_first_moment_of_a_full_batch_is_not_judged_by_the_idle_seconds_before_it(model: CapacityModel) -> None:
    """A worker that takes over a dead one's requests is full at once; its rate is still that of a worker with room."""
    taken_over = full(queued=3, rate=10, step_seconds=0.01)
    assert forecast(model, taken_over).wait_seconds == pytest.approx(4 * 10 / (0.5 * 8 / 0.01))


def test_a_full_batch_that_drains_faster_than_its_steps_say_is_believed(model: CapacityModel) -> None:
    assert forecast(model, full(queued=7, step_seconds=0.1)).wait_seconds == pytest.approx(8 * 10 / 80)


def test_a_record_about_to_enter_a_batch_with_room_does_not_make_it_full(model: CapacityModel) -> None:
    model.observe(worker(running_requests=2, waiting_requests=1, queued_requests=1, drained_tokens_per_second=5.0))
    assert forecast(model, full(rate=80)).requests_per_second == pytest.approx(8)


def test_a_worker_that_drains_faster_than_believed_is_faster_even_with_room_to_spare(model: CapacityModel) -> None:
    model.observe(full(rate=8))
    for _ in range(20):
        model.observe(worker(running_requests=1, drained_tokens_per_second=80.0))
    assert forecast(model, worker(running_requests=1)).requests_per_second > 0.5


def test_a_worker_that_becomes_slow_under_load_is_noticed(model: CapacityModel) -> None:
    for _ in range(3):
        model.observe(full(rate=80))
    for _ in range(20):
        model.observe(full(rate=8))
    assert forecast(model, full(rate=8)).requests_per_second == pytest.approx(0.8, rel=0.05)


def test_a_worker_of_unknown_speed_is_taken_for_an_average_one(model: CapacityModel) -> None:
    found = forecast(model, full("a", rate=80), full("b", rate=0.0))
    assert found.requests_per_second == pytest.approx(16)


def test_a_cache_without_room_leaves_no_room_in_the_batch(model: CapacityModel) -> None:
    assert forecast(model, worker(running_requests=2, outstanding_tokens=20)).wait_seconds == 0
    short = worker(running_requests=2, outstanding_tokens=20, kv_blocks_free=0)
    assert forecast(model, short).wait_seconds is None


def test_a_paused_intake_has_no_room(model: CapacityModel) -> None:
    assert forecast(model, worker(is_intake_paused=True)).wait_seconds is None


def test_a_quarantined_worker_does_not_count(model: CapacityModel) -> None:
    assert forecast(model, worker(is_quarantined=True)).wait_seconds is None


def test_what_was_admitted_since_the_heartbeat_is_counted_until_the_next(
    model: CapacityModel, clock: ManualClock
) -> None:
    fleet = [worker(running_requests=0)]
    model.observe(fleet[0])
    for _ in range(8):
        assert model.forecast("default", fleet).wait_seconds == 0
        model.admitted("default", 10)
    assert model.forecast("default", fleet).wait_seconds is None
    clock.move(0.5)
    fleet = [full()]
    model.observe(fleet[0])
    assert model.forecast("default", fleet).wait_seconds == pytest.approx(10 / 80)


def test_short_requests_answered_between_two_heartbeats_are_no_queue(model: CapacityModel) -> None:
    fleet = [worker(running_requests=0)]
    model.observe(full(rate=80.0))
    model.observe(fleet[0])
    for _ in range(500):
        model.answered("default", model.admitted("default", 10))
    assert model.forecast("default", fleet).wait_seconds == 0


def test_the_slowest_batch_says_how_long_a_token_takes(model: CapacityModel) -> None:
    assert forecast(model, full("a", step_seconds=0.02), full("b", step_seconds=0.06)).seconds_per_token == 0.06


def test_workers_that_are_gone_are_forgotten(model: CapacityModel) -> None:
    for number in range(200):
        forecast(model, worker(f"w{number}"))
    assert len(model._workers) < 40
