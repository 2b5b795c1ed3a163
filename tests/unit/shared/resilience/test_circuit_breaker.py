import pytest

from shared.resilience.circuit_breaker import BreakerRules, BreakerState, CircuitBreaker
from shared.resilience.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> CircuitBreaker:
    return CircuitBreaker(BreakerRules(), clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.record_failure()


def test_five_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1)
    assert breaker.is_open


def test_a_success_in_between_starts_the_count_again(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    breaker.record_success()
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED


def test_it_is_tried_again_after_thirty_seconds(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 5)
    clock.move(29.999)
    assert breaker.is_open
    clock.move(0.001)
    assert breaker.state is BreakerState.HALF_OPEN


def test_three_successes_close_it(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 5)
    clock.move(30)
    breaker.record_success()
    breaker.record_success()
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.record_success()
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 4)
    assert breaker.state is BreakerState.CLOSED, "the old failures are forgotten"


def test_one_failure_while_it_is_tried_opens_it_for_a_full_time(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 5)
    clock.move(40)
    breaker.record_success()
    breaker.record_success()
    breaker.record_failure()
    assert breaker.is_open
    clock.move(30)
    breaker.record_success()
    assert breaker.state is BreakerState.HALF_OPEN, "successes of the last trial do not count"


def test_late_answers_while_open_prove_nothing(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 5)
    clock.move(10)
    for _ in range(10):
        breaker.record_success()
    fail(breaker, 1)
    clock.move(20)
    assert breaker.state is BreakerState.HALF_OPEN, "late failures do not prolong it either"


@pytest.mark.parametrize("wrong", [{"failures_to_open": 0}, {"open_seconds": 0.0}, {"successes_to_close": 0}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        BreakerRules(**wrong)  # type: ignore[arg-type]
