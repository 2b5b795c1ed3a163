"""What a circuit breaker tells metrics, by a real breaker."""

import pytest

from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.resilience.clock import ManualClock
from shared.telemetry.breaker_reports import BreakerReports
from shared.telemetry.catalogue import REGISTRY


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"breaker": "worker", **labels}) or 0.0


def counted() -> tuple[float, ...]:
    """Closed, open, half-open; transitions to open; rejections."""
    states = [value("penstock_breakers", state=state) for state in BreakerState]
    opened = value("penstock_breaker_transitions_total", state="open")
    return (*states, opened, value("penstock_breaker_rejections_total"))


@pytest.fixture
def before() -> tuple[float, ...]:
    return counted()


def since(before: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(now - then for now, then in zip(counted(), before, strict=True))


def test_a_breaker_is_counted_in_the_state_it_is_in(before: tuple[float, ...]) -> None:
    clock = ManualClock()
    reports = BreakerReports("worker", "w-0")
    breaker = CircuitBreaker(BreakerRules(failures_to_open=1, successes_to_close=1), clock=clock, listener=reports)
    assert since(before) == (1, 0, 0, 0, 0)
    breaker.record_failure()
    breaker.attempt()
    assert since(before) == (0, 1, 0, 1, 1)
    clock.move(30)
    probe = breaker.attempt()
    assert probe is not None
    assert since(before) == (0, 0, 1, 1, 1)
    probe.succeeded()
    assert since(before) == (1, 0, 0, 1, 1)
    reports.forget()
    assert since(before) == (0, 0, 0, 1, 1)
