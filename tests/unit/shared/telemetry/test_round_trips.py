"""What is measured of round trips: durations of those that worked, reasons of those that did not."""

import pytest

from shared.contracts.errors import BrokerUnavailable, InvalidRequest, LedgerUnavailable
from shared.telemetry.catalogue import REGISTRY
from shared.telemetry.round_trips import kafka_round_trip, ledger_round_trip


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_round_trip_that_worked_is_timed_and_is_no_failure() -> None:
    before = value("penstock_kafka_latency_seconds_count", operation="test-works")
    with kafka_round_trip("test-works"):
        pass
    with ledger_round_trip("test-works"):
        pass
    assert value("penstock_kafka_latency_seconds_count", operation="test-works") == before + 1
    assert value("penstock_ledger_latency_seconds_count", verb="test-works") == 1
    assert value("penstock_ledger_failures_total", verb="test-works") == 0


def test_a_failure_is_counted_by_its_deepest_cause_and_not_timed() -> None:
    with pytest.raises(BrokerUnavailable), kafka_round_trip("test-fails"):
        raise BrokerUnavailable("Kafka is away") from TimeoutError("no answer")
    assert value("penstock_kafka_failures_total", operation="test-fails", reason="TimeoutError") == 1
    assert value("penstock_kafka_latency_seconds_count", operation="test-fails") == 0


def test_a_foreign_error_that_was_named_counts_too() -> None:
    with pytest.raises(ValueError, match="refused"), kafka_round_trip("test-named", ValueError):
        raise ValueError("refused")
    assert value("penstock_kafka_failures_total", operation="test-named", reason="ValueError") == 1


def test_a_ledger_that_is_away_is_a_failure_of_its_verb() -> None:
    with pytest.raises(LedgerUnavailable), ledger_round_trip("test-away"):
        raise LedgerUnavailable("Redis is away")
    assert value("penstock_ledger_failures_total", verb="test-away") == 1


def test_what_is_a_callers_fault_is_no_failure_of_kafka() -> None:
    with pytest.raises(InvalidRequest), kafka_round_trip("test-caller"):
        raise InvalidRequest("the record is wrong")
    assert value("penstock_kafka_failures_total", operation="test-caller", reason="InvalidRequest") == 0
