"""The bound on outstanding requests and the truth of its Retry-After."""

import pytest

from services.gateway.admission import Admission
from shared.contracts.errors import QueueFull
from shared.resilience.clock import ManualClock


def admission(limit: int, clock: ManualClock | None = None) -> Admission:
    return Admission(max_outstanding_requests=limit, monotonic=(clock or ManualClock()).monotonic)


def test_beyond_the_bound_it_refuses_and_a_place_given_back_admits_again() -> None:
    bounded = admission(2)
    first, _ = bounded.enter(), bounded.enter()
    with pytest.raises(QueueFull):
        bounded.enter()
    first.give_back()
    bounded.enter()
    assert bounded.outstanding_requests == 2


def test_a_place_is_given_back_once() -> None:
    bounded = admission(2)
    place, _ = bounded.enter(), bounded.enter()
    place.give_back()
    place.give_back()
    assert bounded.outstanding_requests == 1


def test_a_place_is_given_back_when_its_block_fails() -> None:
    bounded = admission(1)
    with pytest.raises(ZeroDivisionError), bounded.enter():
        raise ZeroDivisionError
    assert bounded.outstanding_requests == 0


def test_retry_after_is_the_mean_time_between_departures() -> None:
    clock = ManualClock()
    bounded = admission(1, clock)
    for _ in range(10):
        place = bounded.enter()
        clock.move(0.5)
        place.give_back()
    bounded.enter()
    with pytest.raises(QueueFull) as full:
        bounded.enter()
    assert full.value.retry_after_seconds == pytest.approx(0.45)


def test_old_departures_do_not_count() -> None:
    clock = ManualClock()
    bounded = admission(9, clock)
    for _ in range(9):
        bounded.enter().give_back()
    assert bounded.retry_after_seconds() == pytest.approx(1 / 9)
    clock.move(11)
    assert bounded.retry_after_seconds() == 2.0


def test_retry_after_stays_within_bounds() -> None:
    clock = ManualClock()
    bounded = admission(1, clock)
    for _ in range(1_000):
        bounded.enter().give_back()
    assert bounded.retry_after_seconds() == 0.1
