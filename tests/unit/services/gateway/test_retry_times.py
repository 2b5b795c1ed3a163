"""When refused callers are told to come back."""

import pytest

from services.gateway.retry_times import MOST_SECONDS, RetryTimes
from shared.resilience.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def times(clock: ManualClock) -> RetryTimes:
    return RetryTimes(clock=clock)


def depart(times: RetryTimes, clock: ManualClock, number: int, *, every: float) -> None:
    for _ in range(number):
        clock.move(every)
        times.departed()


def test_without_a_departure_it_is_a_guess(times: RetryTimes) -> None:
    assert times.until_a_departure() == 2.0


def test_it_is_the_mean_time_between_departures_of_late(times: RetryTimes, clock: ManualClock) -> None:
    depart(times, clock, 10, every=0.5)
    assert times.until_a_departure() == pytest.approx(0.45)


def test_each_caller_gets_the_next_departure(times: RetryTimes, clock: ManualClock) -> None:
    depart(times, clock, 10, every=0.5)
    assert [times.until_a_departure() for _ in range(3)] == pytest.approx([0.45, 0.90, 1.35])


def test_old_departures_do_not_count(times: RetryTimes, clock: ManualClock) -> None:
    depart(times, clock, 10, every=0.1)
    clock.move(11)
    assert times.until_a_departure() == 2.0


def test_times_stay_within_bounds(times: RetryTimes, clock: ManualClock) -> None:
    assert times.after(0.0, 0.0) == 0.1
    assert [times.after(0.0, 20.0) for _ in range(3)] == [20.0, MOST_SECONDS, MOST_SECONDS]


def test_the_queue_of_the_refused_moves_on_with_time(times: RetryTimes, clock: ManualClock) -> None:
    assert times.after(0.0, 1.0) == 1.0
    clock.move(5)
    assert times.after(0.0, 1.0) == 1.0
