"""A counter's first event must be an increase: its series exist before it."""

from shared.contracts.errors import error_classes
from shared.telemetry.catalogue import REGISTRY
from shared.telemetry.first_samples import begin_at_zero, begin_breaker, begin_delivery, begin_errors
from shared.telemetry.metrics import DEAD_LETTERS


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_workers_counters_are_there_before_anything_happened() -> None:
    assert value("penstock_dead_letters_total", pool="begun", code="poison_message") is None
    begin_delivery("begun")
    for code in error_classes():
        assert value("penstock_dead_letters_total", pool="begun", code=code) == 0
        assert value("penstock_retries_total", pool="begun", code=code) == 0
    assert value("penstock_engine_restarts_total", pool="begun", reason="hung") == 0


def test_every_error_class_has_a_series_under_its_blame() -> None:
    begin_errors()
    missing = [
        code
        for code, error in error_classes().items()
        if value("penstock_errors_total", code=code, blame=error.blame.value) is None
    ]
    assert missing == []


def test_beginning_again_takes_nothing_back() -> None:
    begin_at_zero(DEAD_LETTERS, pool=["again"], code=["a", "b"])
    DEAD_LETTERS.labels(pool="again", code="a").inc()
    begin_at_zero(DEAD_LETTERS, pool=["again"], code=["a", "b"])
    assert value("penstock_dead_letters_total", pool="again", code="a") == 1
    assert value("penstock_dead_letters_total", pool="again", code="b") == 0


def test_a_breakers_transitions_are_there_for_each_state() -> None:
    begin_breaker("worker")
    states = ("closed", "open", "half-open")
    found = [value("penstock_breaker_transitions_total", breaker="worker", state=state) for state in states]
    assert None not in found
