"""The oracle convicts whatever breaks a promise, and acquits what the promise allows."""

import json
from dataclasses import replace

import pytest

from tests.chaos.asks import Ask, Way, flaw
from tests.chaos.oracle import Record, judge


def an_ask(way: Way = Way.KAFKA, **changes: object) -> Ask:
    ask = Ask(name="a", way=way, content="hi", seed=3, num_tokens=30, asked_at=1.0, accepted_at=1.1)
    for name, value in changes.items():
        setattr(ask, name, value)
    return ask


def a_result(ask: Ask, *, texts: list[str] | None = None, kind: str = "completed", ce_id: str = "1" * 32) -> Record:
    choices = [{"index": index, "message": {"content": text}} for index, text in enumerate(texts or ask.expected_texts)]
    usage = {"completion_tokens": ask.num_tokens * ask.num_choices}
    headers = (
        ("ce_id", ce_id.encode()),
        ("ce_type", f"penstock.inference.{kind}.v1".encode()),
        ("ce_subject", ask.name.encode()),
        ("ce_time", b"2026-01-01T00:00:00.000Z"),
        ("penstock-source-topic", b"t"),
        ("penstock-source-partition", b"2"),
        ("penstock-source-offset", b"7"),
    )
    return Record("inference.results", 0, 0, json.dumps({"choices": choices, "usage": usage}).encode(), headers)


def a_read_stream(**changes: object) -> Ask:
    ask = an_ask(Way.STREAM, request_id="1" * 32, ended_at=2.0, finish_reasons={0: "length"})
    ask.texts = ask.expected_texts
    for name, value in changes.items():
        setattr(ask, name, value)
    return ask


def test_an_answered_request_is_no_violation() -> None:
    ask = an_ask()
    assert judge([ask], [a_result(ask)]).num_violations == 0


def test_an_accepted_request_without_a_terminal_is_lost() -> None:
    assert len(judge([an_ask()], []).lost) == 1


def test_what_was_never_accepted_cannot_be_lost() -> None:
    assert judge([an_ask(accepted_at=None)], []).num_violations == 0


def test_the_same_terminal_twice_is_allowed_and_counted() -> None:
    ask = an_ask()
    verdict = judge([ask], [a_result(ask), a_result(ask)])
    assert (verdict.num_violations, verdict.num_repeats) == (0, 1)


def test_a_repeated_terminal_with_another_time_is_convicted() -> None:
    ask = an_ask()
    first = a_result(ask)
    later = tuple((name, b"2026-01-01T00:00:01.000Z" if name == "ce_time" else value) for name, value in first.headers)
    assert len(judge([ask], [first, replace(first, headers=later)]).differing) == 1


def test_one_request_answered_under_two_ids_is_convicted() -> None:
    ask = an_ask(Way.KAFKA_NAMELESS, receipts=[("t", 2, 7), ("t", 2, 8)])
    other = a_result(ask, ce_id="2" * 32)
    moved = tuple((name, b"8" if name.endswith("offset") else value) for name, value in other.headers)
    assert judge([ask], [a_result(ask), replace(other, headers=moved)]).differing == ["a: answered under 2 ids"]


def test_a_failed_terminal_is_convicted() -> None:
    ask = an_ask()
    assert "failed" in judge([ask], [a_result(ask, kind="failed")]).wrong[0]


def test_a_result_and_a_dead_letter_that_nobody_asked_for_are_convicted() -> None:
    verdict = judge([], [a_result(an_ask())], [a_result(an_ask())])
    assert len(verdict.unasked) == 2


def test_a_nameless_record_is_joined_by_its_coordinates() -> None:
    ask = an_ask(Way.KAFKA_NAMELESS, receipts=[("t", 2, 7)])
    assert judge([ask], [a_result(ask)]).num_violations == 0


def test_a_whole_stream_is_no_violation() -> None:
    ask = a_read_stream()
    assert judge([ask], [a_result(ask)]).num_violations == 0


@pytest.mark.parametrize(
    "changes",
    [{"ended_at": None}, {"finish_reasons": {}}, {"texts": ["short"]}, {"problems": ["error event"]}],
    ids=["no end", "no finish reason", "other text", "an error event"],
)
def test_a_broken_stream_is_convicted(changes: dict[str, object]) -> None:
    ask = a_read_stream(**changes)
    assert judge([ask], [a_result(ask)]).streams


def test_a_flaw_is_named_by_what_it_is() -> None:
    whole = an_ask().expected_texts[0]
    assert flaw(whole, whole) is None
    assert flaw(whole[:9], whole) == "short: 9 of 30 tokens"
    assert flaw(whole[:9] + whole[12:], whole) == "gap at token 9"
    assert flaw(whole[:9] + whole[5:], whole) == "duplicate at token 9"
    assert (flaw(whole[:9] + "?" + whole[10:], whole) or "").startswith("different")
