"""Dead letters: what their headers say, and when there are too many of them."""

import pytest

from shared.contracts.errors import PoisonMessage
from shared.messaging.dead_letter import DeadLetterLimit, DeadLetterStorm, dead_letter_headers
from shared.messaging.records import Headers, SourceRecord


def _record(headers: Headers) -> SourceRecord:
    return SourceRecord(topic="t", partition=3, offset=4, timestamp_ms=5, key=None, value=None, headers=headers)


def test_a_copy_keeps_the_coordinates_of_its_original() -> None:
    headers = dead_letter_headers(
        _record((("penstock-source-topic", b"first"), ("x", None))), error=PoisonMessage("no"), now_ms=9
    )
    assert [value for name, value in headers if name == "penstock-source-topic"] == [b"first"]
    assert ("penstock-source-offset", b"4") in headers
    assert ("x", None) in headers


def test_a_dead_letter_posted_again_names_its_latest_reason_only() -> None:
    first = dead_letter_headers(_record(()), error=PoisonMessage("first"), now_ms=1)
    second = dead_letter_headers(_record(first), error=PoisonMessage("second"), now_ms=2)
    assert [value for name, value in second if name == "penstock-dead-letter-reason"] == [b"second"]


def test_a_reason_of_any_length_and_content_fits() -> None:
    headers = dict(dead_letter_headers(_record(()), error=PoisonMessage("\udcff" * 5_000), now_ms=1))
    assert headers["penstock-dead-letter-reason"] == b"?" * 1_000


def test_a_run_of_dead_letters_is_a_storm() -> None:
    limit = DeadLetterLimit(max_run=3, max_ratio=1.0, window=100)
    limit.dead_lettered()
    limit.dead_lettered()
    limit.succeeded()
    limit.dead_lettered()
    limit.dead_lettered()
    with pytest.raises(DeadLetterStorm, match="3 records in a row"):
        limit.dead_lettered()


def test_too_high_a_ratio_over_a_full_window_is_a_storm() -> None:
    limit = DeadLetterLimit(max_run=1_000, max_ratio=0.5, window=10)
    for _ in range(5):
        limit.dead_lettered()
        limit.succeeded()
    limit.dead_lettered()  # the oldest of the ten was dead too: still 5
    with pytest.raises(DeadLetterStorm, match="6 of the last 10"):
        limit.dead_lettered()


def test_old_dead_letters_leave_the_window() -> None:
    limit = DeadLetterLimit(max_run=1_000, max_ratio=0.5, window=4)
    for _ in range(20):
        limit.dead_lettered()
        limit.succeeded()
        limit.succeeded()
    limit.dead_lettered()


def test_the_first_record_of_all_may_be_dead() -> None:
    DeadLetterLimit().dead_lettered()
