"""Libraries that repeat themselves are heard, and drown nothing."""

import logging

import pytest

from shared.resilience.clock import ManualClock
from shared.telemetry.repetition import LessOften


def _says(words: str, *values: object, level: int = logging.WARNING, name: str = "aiokafka.conn") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, words, values, None)


def test_one_saying_is_written_once_in_ten_seconds_and_then_says_how_often() -> None:
    less_often = LessOften((clock := ManualClock()).monotonic)
    written = []
    for second in range(21):
        record = _says("Unable to connect to %s: %s", "broker:9092", second)
        if less_often.filter(record):
            written.append(record.getMessage())
        clock.move(1)
    assert written == [
        "Unable to connect to broker:9092: 0",
        "Unable to connect to broker:9092: 10 (9 more like it in 10 s)",
        "Unable to connect to broker:9092: 20 (9 more like it in 10 s)",
    ]


@pytest.mark.parametrize(
    "other",
    [
        _says("another %s", 1),
        _says("words %s", 1, level=logging.ERROR),
        _says("words %s", 1, name="aiokafka.cluster"),
    ],
    ids=["words", "level", "logger"],
)
def test_another_saying_is_heard_at_once(other: logging.LogRecord) -> None:
    less_often = LessOften(ManualClock().monotonic)
    assert less_often.filter(_says("words %s", 1))
    assert not less_often.filter(_says("words %s", 2))
    assert less_often.filter(other)


def test_what_is_critical_is_never_left_out() -> None:
    less_often = LessOften(ManualClock().monotonic)
    assert all(less_often.filter(_says("down", level=logging.CRITICAL)) for _ in range(3))


def test_memory_is_bounded_by_forgetting_what_was_said_longest_ago() -> None:
    less_often = LessOften(ManualClock().monotonic)
    for number in range(3_000):
        assert less_often.filter(_says(f"words {number}"))
    assert len(less_often._said) == 1_000
    assert not less_often.filter(_says("words 2999"))
    assert less_often.filter(_says("words 0"))
