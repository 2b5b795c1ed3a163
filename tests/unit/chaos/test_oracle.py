"""The oracle convicts whatever breaks a promise, and acquits what the promise allows."""

import json
from dataclasses import replace

import pytest

from tests.chaos.asks import Answer, Ask, Early, Way, answer_flaw, flaw, prefix_flaw
from tests.chaos.load_mix import null_ask
from tests.chaos.oracle import Record, judge


def an_ask(way: Way = Way.KAFKA, *, name: str = "a", **changes: object) -> Ask:
    ask = null_ask(name, way, "hi", seed=3, num_tokens=30)
    ask.asked_at, ask.accepted_at = 1.0, 1.1
    for field, value in changes.items():
        setattr(ask, field, value)
    return ask


def headers_of(
    ask: Ask, *, kind: str = "completed", ce_id: str = "1" * 32, offset: int = 7, time: str = "0.000"
) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_id", ce_id.encode()),
        ("ce_type", f"penstock.inference.{kind}.v1".encode()),
        ("ce_subject", ask.name.encode()),
        ("ce_time", f"2026-01-01T00:00:0{time}Z".encode()),
        ("penstock-source-topic", b"t"),
        ("penstock-source-partition", b"2"),
        ("penstock-source-offset", str(offset).encode()),
    )


def a_result(ask: Ask, *, texts: list[str] | None = None, tokens: int | None = None, **headers: object) -> Record:
    said = [answer.text for answer in ask.wanted.answers] if texts is None else texts
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "length"} for index, text in enumerate(said)
    ]
    usage = {"completion_tokens": ask.wanted.completion_tokens if tokens is None else tokens}
    body = json.dumps({"choices": choices, "usage": usage}).encode()
    return Record("inference.results", 0, 0, body, headers_of(ask, **headers))


def a_read_stream(**changes: object) -> Ask:
    ask = an_ask(Way.STREAM, request_id="1" * 32, ended_at=2.0)
    ask.said = [replace(answer) for answer in ask.wanted.answers]
    ask.usage = ask.wanted.completion_tokens
    for name, value in changes.items():
        setattr(ask, name, value)
    return ask


def test_an_answered_request_is_no_violation() -> None:
    ask = an_ask()
    assert judge([ask], [a_result(ask)]).num_violations == 0


def test_an_accepted_request_without_a_terminal_is_lost() -> None:
    verdict = judge([ask := an_ask()], [])
    assert len(verdict.lost) == 1
    assert verdict.convicted == [("lost", ask)]


def test_what_was_never_accepted_cannot_be_lost() -> None:
    assert judge([an_ask(accepted_at=None)], []).num_violations == 0


def test_the_same_terminal_twice_is_allowed_and_counted() -> None:
    ask = an_ask()
    verdict = judge([ask], [a_result(ask), a_result(ask)])
    assert (verdict.num_violations, verdict.num_repeats) == (0, 1)


def test_a_repeated_terminal_with_another_time_is_convicted() -> None:
    ask = an_ask()
    assert len(judge([ask], [a_result(ask), a_result(ask, time="1")]).differing) == 1


def test_one_request_answered_under_two_ids_is_convicted() -> None:
    ask = an_ask(Way.KAFKA_NAMELESS, receipts=[("t", 2, 7), ("t", 2, 8)])
    verdict = judge([ask], [a_result(ask), a_result(ask, ce_id="2" * 32, offset=8)])
    assert ["answered under 2 ids" in line for line in verdict.differing] == [True]


@pytest.mark.parametrize("kind", ["failed", "cancelled", "expired"])
def test_a_terminal_that_nobody_asked_for_is_convicted(kind: str) -> None:
    ask = an_ask()
    assert kind in judge([ask], [a_result(ask, kind=kind)]).wrong[0]


def test_a_result_with_another_count_of_tokens_is_convicted() -> None:
    ask = an_ask()
    assert "usage says 29" in judge([ask], [a_result(ask, tokens=29)]).wrong[0]


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
    [
        {"ended_at": None},
        {"said": [Answer("short", "length")]},
        {"problems": ["error event"]},
        {"usage": 7},
        {"usage": None},
    ],
    ids=["no end", "other text", "an error event", "other usage", "no usage"],
)
def test_a_broken_stream_is_convicted(changes: dict[str, object]) -> None:
    ask = a_read_stream(**changes)
    assert judge([ask], [a_result(ask)]).streams


def test_an_awaited_result_is_judged_as_its_reader_saw_it() -> None:
    ask = a_read_stream(way=Way.AWAIT, said=[Answer("something else", "length")])
    assert judge([ask], [a_result(ask)]).streams


def test_a_stream_that_was_cancelled_may_end_in_the_middle() -> None:
    ask = a_read_stream(early=Early.DELETE, ended_early="request_cancelled")
    ask.said[0].text = ask.said[0].text[:10]
    verdict = judge([ask], [a_result(ask, kind="cancelled")])
    assert (verdict.num_violations, verdict.num_early) == (0, 1)


@pytest.mark.parametrize("used", [None, 3, 31])
def test_an_early_end_tells_its_usage_and_a_true_one(used: int | None) -> None:
    ask = a_read_stream(early=Early.DELETE, ended_early="request_cancelled")
    ask.said[0].text = ask.said[0].text[:10]
    terminal = a_result(ask, kind="cancelled", tokens=used)
    if used is None:
        terminal = replace(terminal, value=b'{"error": {}}')
    assert "the usage so far" in judge([ask], [terminal]).wrong[0]


def test_even_a_cancelled_stream_may_not_have_a_gap() -> None:
    ask = a_read_stream(early=Early.DELETE, ended_early="request_cancelled")
    ask.said[0].text = ask.said[0].text[:5] + ask.said[0].text[8:12]
    assert "gap" in judge([ask], [a_result(ask, kind="cancelled")]).streams[0]


@pytest.mark.parametrize(("ended_early", "kind"), [(None, "cancelled"), ("request_cancelled", "completed")])
def test_stream_and_terminal_may_not_tell_different_ends(ended_early: str | None, kind: str) -> None:
    ask = a_read_stream(early=Early.DELETE, ended_early=ended_early)
    assert len(judge([ask], [a_result(ask, kind=kind)]).wrong) == 1


def test_whoever_leaves_may_find_either_end() -> None:
    for kind in ("cancelled", "completed"):
        ask = a_read_stream(early=Early.LEAVE, has_left=True, said=[Answer()])
        assert judge([ask], [a_result(ask, kind=kind)]).num_violations == 0


@pytest.mark.parametrize(("second", "violations"), [("5.500", 0), ("3.100", 1), ("0.000", 1)])
def test_records_of_a_key_that_wanted_their_order_begin_after_the_one_before_has_ended(
    second: str, violations: int
) -> None:
    first = an_ask(name="a", ordered_key="k", receipts=[("t", 2, 7)], least_seconds=2.0)
    later = an_ask(name="b", ordered_key="k", receipts=[("t", 2, 8)], least_seconds=2.0)
    results = [a_result(first, time="3.000"), a_result(later, ce_id="2" * 32, time=second)]
    assert len(judge([first, later], results).out_of_order) == violations


def test_a_flaw_is_named_by_what_it_is() -> None:
    whole = an_ask().wanted.answers[0].text
    assert flaw(whole, whole) is None
    assert flaw(whole[:9], whole) == "short: 9 of 30 characters"
    assert flaw(whole[:9] + whole[12:], whole) == "gap at character 9"
    assert flaw(whole[:9] + whole[5:], whole) == "duplicate at character 9"
    assert (flaw(whole[:9] + "?" + whole[10:], whole) or "").startswith("different")


@pytest.mark.parametrize(
    "said",
    [
        Answer("text", "stop", {0: ["f", "{}"]}, ["t"]),
        Answer("text", "length", {}, ["t"]),
        Answer("text", "length", {0: ["f", '{"x": 1}']}, ["t"]),
        Answer("text", "length", {0: ["f", "{}"]}, ["t", "t"]),
    ],
    ids=["finish reason", "a call is missing", "other arguments", "a token twice"],
)
def test_every_part_of_an_answer_counts(said: Answer) -> None:
    wanted = Answer("text", "length", {0: ["f", "{}"]}, ["t"])
    assert answer_flaw(replace(wanted), wanted) is None
    assert answer_flaw(said, wanted) is not None


def test_a_beginning_is_no_flaw_of_a_prefix() -> None:
    assert prefix_flaw(Answer("te"), Answer("text", "stop")) is None
    assert prefix_flaw(Answer("tx"), Answer("text", "stop")) is not None


def test_what_redis_forgot_need_not_be_counted_at_an_early_end() -> None:
    ask = a_read_stream(early=Early.DELETE, ended_early="request_cancelled", ended_at=9.0)
    terminal = a_result(ask, kind="cancelled", tokens=2)
    assert judge([ask], [terminal]).wrong
    assert judge([ask], [terminal], forgot=[(20.0, 21.0)]).wrong
    assert not judge([ask], [terminal], forgot=[(4.0, 5.0)]).wrong


def test_whoever_left_may_find_its_count_forgotten_after_that() -> None:
    ask = a_read_stream(early=Early.LEAVE, has_left=True, ended_at=4.0)
    terminal = a_result(ask, kind="cancelled", tokens=0)
    assert judge([ask], [terminal]).wrong
    assert not judge([ask], [terminal], forgot=[(4.0, 5.0)]).wrong


def test_who_was_cut_off_before_it_was_told_anything_may_be_cancelled() -> None:
    ask = an_ask(Way.STREAM, accepted_at=None, request_id="1" * 32)
    assert judge([ask], [a_result(ask, kind="cancelled")]).num_violations == 0
    accepted = an_ask(Way.STREAM, request_id="1" * 32)
    assert judge([accepted], [a_result(accepted, kind="cancelled")]).wrong


@pytest.mark.parametrize(("arrivals", "num_wrong"), [([], 0), ([1.5], 1)])
def test_so_may_who_could_not_come_back_before_its_deadline_unless_it_had_heard_a_token(
    arrivals: list[float], num_wrong: int
) -> None:
    ask = a_read_stream(early=Early.DEADLINE, ended_early="request_cancelled", said=[Answer()], arrivals=arrivals)
    assert len(judge([ask], [a_result(ask, kind="cancelled", tokens=0)]).wrong) == num_wrong


def test_a_refused_question_past_its_deadline_may_have_been_taken_and_expired() -> None:
    refused = a_read_stream(early=Early.DEADLINE, accepted_at=None, request_id=None, said=[Answer()])
    assert judge([refused], [a_result(refused, kind="expired", tokens=0)]).num_violations == 1  # nobody asked for it
    told = replace_subject(refused)
    assert judge([refused], [told]).num_violations == 0


def a_failure(ask: Ask) -> tuple[Record, Record]:
    """The null engine fails so many-th requests: result and dead letter of one without time for another try."""
    body = json.dumps({"error": {"code": "engine_failed"}, "usage": {"completion_tokens": 10}}).encode()
    result = replace(a_result(ask, kind="failed"), value=body)
    marks = (("ce_id", f"idem:{ask.name}".encode()), ("penstock-dead-letter-code", b"engine_failed"))
    return result, Record("inference.dead-letters", 0, 0, b"{}", marks)


@pytest.mark.parametrize(("early", "violations"), [(Early.DEADLINE, 0), (Early.DELETE, 2), (None, 2)])
def test_a_failure_that_was_asked_for_may_end_only_who_had_no_time_for_another_try(
    early: Early | None, violations: int
) -> None:
    ask = a_read_stream(early=early, ended_early="engine_failed")
    ask.said[0].text = ask.said[0].text[:10]
    result, letter = a_failure(ask)
    assert judge([ask], [result], [letter]).num_violations == violations


def replace_subject(ask: Ask) -> Record:
    """As the gateway names what has an idempotency key."""
    result = a_result(ask, kind="expired", tokens=0)
    named = tuple(
        ("ce_subject", b"idem:a") if name == "ce_subject" else (name, value) for name, value in result.headers
    )
    return replace(result, headers=named)


@pytest.mark.parametrize(("is_untold", "num_wrong"), [(True, 0), (False, 1)])
def test_a_stream_that_ended_without_knowing_the_outcome_contradicts_none(is_untold: bool, num_wrong: int) -> None:
    ask = a_read_stream(early=Early.DEADLINE, ended_early="deadline_exceeded", is_untold=is_untold)
    assert len(judge([ask], [a_result(ask)]).wrong) == num_wrong


def test_a_nameless_record_that_its_producer_wrote_twice_has_two_answers_and_both_are_judged() -> None:
    ask = an_ask(Way.KAFKA_NAMELESS, receipts=[("t", 2, 7)])
    written = [Record("t", 2, offset, json.dumps(ask.body).encode(), ()) for offset in (7, 9)]
    results = [a_result(ask, offset=7), a_result(ask, ce_id="2" * 32, offset=9)]
    wrong = [results[0], a_result(ask, ce_id="2" * 32, offset=9, tokens=29)]
    for _ in range(2):  # a run is judged again and again until it has settled
        assert judge([ask], results).unasked
        assert judge([ask], results, requests=written).num_violations == 0
        assert judge([ask], wrong, requests=written).wrong
