import pytest

from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.circuit_breaker import Attempt, CircuitBreaker
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


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []
        self.rejections = 0

    def changed(self, before: str, after: str) -> None:
        self.changes.append((before, after))

    def rejected(self) -> None:
        self.rejections += 1


def attempt(breaker: CircuitBreaker) -> Attempt:
    found = breaker.attempt()
    assert found is not None
    return found


def test_an_open_breaker_lets_nothing_through_and_says_for_how_long(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    assert breaker.retry_after_seconds == 0
    fail(breaker, 5)
    clock.move(12)
    assert breaker.attempt() is None
    assert breaker.retry_after_seconds == 18
    clock.move(18)
    assert breaker.retry_after_seconds == 0


def test_half_open_lets_a_bounded_number_of_probes_through_at_a_time(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    fail(breaker, 5)
    clock.move(30)
    probes = [attempt(breaker) for _ in range(3)]
    assert breaker.attempt() is None
    probes[0].abandoned()
    attempt(breaker).succeeded()
    assert breaker.state is BreakerState.HALF_OPEN
    probes[1].succeeded()
    probes[2].succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_never_reports_gives_its_place_on_after_a_while(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    fail(breaker, 5)
    clock.move(30)
    for _ in range(3):
        attempt(breaker)
    clock.move(29)
    assert breaker.attempt() is None
    clock.move(1)
    assert breaker.attempt() is not None


def test_a_late_success_of_an_old_attempt_closes_nothing(clock: ManualClock) -> None:
    breaker = CircuitBreaker(BreakerRules(successes_to_close=1), clock=clock)
    old = attempt(breaker)
    fail(breaker, 5)
    clock.move(30)
    assert breaker.state is BreakerState.HALF_OPEN
    old.succeeded()
    assert breaker.state is BreakerState.HALF_OPEN
    attempt(breaker).succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_a_late_failure_of_an_old_attempt_opens_nothing(breaker: CircuitBreaker, clock: ManualClock) -> None:
    old = attempt(breaker)
    fail(breaker, 5)
    clock.move(30)
    assert breaker.state is BreakerState.HALF_OPEN
    old.failed()
    assert breaker.state is BreakerState.HALF_OPEN


def test_an_attempt_reports_once(breaker: CircuitBreaker) -> None:
    first = attempt(breaker)
    for _ in range(9):
        first.failed()
    assert breaker.state is BreakerState.CLOSED


def test_as_a_context_only_the_named_failure_counts(clock: ManualClock) -> None:
    breaker = CircuitBreaker(BreakerRules(failures_to_open=1), clock=clock)
    for harmless in (ValueError, KeyboardInterrupt):
        guarded = breaker.attempt(failure=ConnectionError)
        assert guarded is not None
        with pytest.raises(harmless), guarded:
            raise harmless
        assert breaker.state is BreakerState.CLOSED
    guarded = breaker.attempt(failure=ConnectionError)
    assert guarded is not None
    with pytest.raises(ConnectionError), guarded:
        raise ConnectionError
    assert breaker.is_open


def test_a_slow_answer_counts_as_a_failure_when_the_rules_say_so(clock: ManualClock) -> None:
    breaker = CircuitBreaker(BreakerRules(failures_to_open=1, slow_seconds=2.0), clock=clock)
    prompt = attempt(breaker)
    clock.move(2.0)
    prompt.succeeded()
    assert breaker.state is BreakerState.CLOSED
    slow = attempt(breaker)
    clock.move(2.1)
    slow.succeeded()
    assert breaker.is_open


def test_a_window_opens_it_at_a_share_of_failures_that_are_never_in_a_row(clock: ManualClock) -> None:
    rules = BreakerRules(window_seconds=10.0, failure_rate=0.5, least_attempts=10)
    breaker = CircuitBreaker(rules, clock=clock)
    for _ in range(4):
        breaker.record_failure()
        breaker.record_success()
    breaker.record_failure()
    assert breaker.state is BreakerState.CLOSED, "nine attempts say nothing"
    breaker.record_success()
    assert breaker.is_open


def test_what_is_older_than_the_window_does_not_count(clock: ManualClock) -> None:
    rules = BreakerRules(window_seconds=10.0, failure_rate=0.5, least_attempts=4)
    breaker = CircuitBreaker(rules, clock=clock)
    fail(breaker, 3)
    clock.move(10)
    for is_success in (True, False, True, True, True):
        breaker.record_success() if is_success else breaker.record_failure()
    assert breaker.state is BreakerState.CLOSED


def test_its_listener_hears_of_every_change_and_rejection(clock: ManualClock) -> None:
    heard = Heard()
    breaker = CircuitBreaker(BreakerRules(successes_to_close=1), clock=clock, listener=heard)
    fail(breaker, 5)
    breaker.attempt()
    breaker.attempt()
    clock.move(30)
    attempt(breaker).succeeded()
    assert heard.changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    assert heard.rejections == 2


def test_a_failure_rate_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="failure_rate"):
        BreakerRules(failure_rate=1.5)
