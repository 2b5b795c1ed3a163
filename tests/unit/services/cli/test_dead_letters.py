"""A dead letter reads as what it was, is chosen by what it says, and is asked again as itself."""

import pytest

from services.cli.dead_letters import MOVED_FROM, REPLAY_OF, DeadLetter, Selection, purge_of
from shared.contracts import headers as names_of
from shared.contracts.errors import PoisonMessage
from shared.contracts.topics import TopicNames
from shared.messaging.dead_letter import dead_letter_headers
from shared.messaging.records import Headers, SourceRecord
from shared.openai.envelope import read_envelope


def a_record(*headers: tuple[str, bytes | None], topic: str = "inference.requests.default.bulk") -> SourceRecord:
    return SourceRecord(
        topic=topic, partition=2, offset=40, timestamp_ms=1_000, key=b"k", value=b"\xff not json", headers=headers
    )


def a_letter(*headers: tuple[str, bytes | None], reason: str = "it is not JSON", offset: int = 7) -> DeadLetter:
    """As `shared.messaging.dead_letter` writes it, lying at 1@7 of the dead letters."""
    record = a_record(*headers)
    written = dead_letter_headers(record, error=PoisonMessage(reason), now_ms=5_000)
    return DeadLetter(
        SourceRecord(
            topic="inference.dead-letters", partition=1, offset=offset, timestamp_ms=6_000, key=record.key,
            value=record.value, headers=written,
        )
    )  # fmt: skip


def replayed(letter: DeadLetter) -> SourceRecord:
    return a_record(*letter.replayed())


def request_id(record: SourceRecord) -> str:
    return read_envelope(record, names=TopicNames(), pool="default", cluster="c").request_id


def test_what_a_producer_wrote_steers_no_terminal() -> None:
    letter = a_letter(("traceparent", b"\x1b]0;mine\x07\n[bold]"), reason="no \x1b[2J\r\nsuch thing")
    assert letter.reason == r"no \x1b[2J\r\nsuch thing"
    assert letter.trace == r"\x1b]0;mine\x07\n[bold]"


def test_it_says_why_when_and_where_from() -> None:
    letter = a_letter()
    assert (letter.where, letter.reason, letter.died_at_ms) == ("1@7", "it is not JSON", 5_000)
    assert letter.code == PoisonMessage.code
    assert letter.source == "inference.requests.default.bulk/2@40"
    assert letter.attempt == "1"


def test_a_letter_without_our_headers_still_reads() -> None:
    letter = DeadLetter(a_record(topic="inference.dead-letters"))
    assert (letter.reason, letter.code, letter.source_topic, letter.died_at_ms) == ("", "", "", 1_000)


def test_it_is_replayed_with_the_headers_of_its_producer_and_none_of_ours() -> None:
    theirs: Headers = (("x-theirs", b"\xff"), ("x-null", None), (names_of.TENANT, b"acme"))
    assert a_letter(*theirs).replayed() == (*theirs, (REPLAY_OF, b"1@7"))


def test_a_deadline_that_is_over_is_not_replayed() -> None:
    names = [name for name, _ in a_letter((names_of.DEADLINE_MS, b"1700000000000")).replayed()]
    assert names_of.DEADLINE_MS not in names


def test_a_replayed_event_is_another_request_than_the_one_that_was_answered() -> None:
    named = ((names_of.CE_ID, b"order-1"),)
    assert request_id(replayed(a_letter(*named))) != request_id(a_record(*named))


def test_a_letter_replayed_twice_is_one_request() -> None:
    letter = a_letter((names_of.CE_ID, b"order-1"))
    assert request_id(replayed(letter)) == request_id(replayed(letter))


def test_a_letter_of_a_replay_that_died_again_names_the_last_death_only() -> None:
    again = a_letter((REPLAY_OF, b"0@1")).replayed()
    assert [value for name, value in again if name == REPLAY_OF] == [b"1@7"]


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(), True),
        (Selection(codes=(PoisonMessage.code,)), True),
        (Selection(codes=("something_else",)), False),
        (Selection(source_topic="inference.requests.default.bulk"), True),
        (Selection(source_topic="another"), False),
        (Selection(containing="NOT json"), True),
        (Selection(containing="too large"), False),
        (Selection(where=("1@7", "0@0")), True),
        (Selection(where=("7@1",)), False),
        (Selection(since_ms=5_000), True),
        (Selection(since_ms=5_001), False),
        (Selection(codes=(PoisonMessage.code,), containing="too large"), False),
    ],
)
def test_a_selection_fits_when_all_that_is_set_fits(selection: Selection, fits: bool) -> None:
    assert selection.fits(a_letter()) is fits


def test_a_purge_moves_who_is_kept_and_lies_before_one_that_goes() -> None:
    letters = [
        a_letter(offset=offset, reason=reason) for offset, reason in enumerate(("keep", "go", "keep", "go", "keep"))
    ]
    plan = purge_of(letters, Selection(containing="go"))
    assert [letter.record.offset for letter in plan.forgotten] == [1, 3]
    assert [letter.record.offset for letter in plan.moved] == [0, 2]
    assert plan.ends == {("inference.dead-letters", 1): 4}


def test_a_purge_of_nothing_touches_nothing() -> None:
    plan = purge_of([a_letter()], Selection(containing="another"))
    assert (plan.forgotten, plan.moved, plan.ends) == ([], [], {})


def test_a_moved_letter_is_the_same_letter_and_is_replayed_as_the_same_request() -> None:
    letter = a_letter((names_of.CE_ID, b"order-1"))
    once = a_letter(*letter.moved(), offset=20)
    twice = a_letter(*once.moved(), offset=30)
    assert [value for name, value in twice.moved() if name == MOVED_FROM] == [b"1@7"]
    assert request_id(replayed(twice)) == request_id(replayed(letter))
    assert MOVED_FROM not in dict(twice.replayed())
