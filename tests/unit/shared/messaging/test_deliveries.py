"""The delivery book's corners: topics made anew, rewound logs, late answers."""

import pytest
from aiokafka.structs import TopicPartition

from shared.messaging import deliveries
from shared.messaging.deliveries import CommitOffset, DeliveryBook, KnownCommit
from shared.messaging.records import SourceRecord

PARTITION = TopicPartition("topic", 0)


def _record(offset: int, *, timestamp_ms: int | None = None) -> SourceRecord:
    return SourceRecord(
        topic="topic",
        partition=0,
        offset=offset,
        timestamp_ms=offset if timestamp_ms is None else timestamp_ms,
        key=None,
        value=b"v",
        headers=(),
    )


def _book(committed: int | None = 0) -> DeliveryBook:
    book = DeliveryBook()
    if committed is not None:
        book.assign({PARTITION: KnownCommit(committed)})
    return book


def _arrive(book: DeliveryBook, offset: int, **fields: int) -> deliveries.Delivery | None:
    return book.arrived(_record(offset, **fields), PARTITION, received_at=float(offset))


def test_a_partition_without_a_commit_begins_with_its_first_record() -> None:
    book = _book(None)
    delivery = _arrive(book, 1_000)
    assert delivery is not None
    delivery.done()
    assert book.offsets_to_commit([PARTITION]) == {PARTITION: CommitOffset(1_001, "")}


def test_a_topic_made_anew_repeats_offsets_but_its_records_are_new() -> None:
    book = _book()
    old = _arrive(book, 0, timestamp_ms=111)
    book.revoke()
    book.assign({PARTITION: KnownCommit(0)})
    new = _arrive(book, 0, timestamp_ms=222)
    assert old is not None
    assert new is not None
    old.done()
    assert book.is_in_flight("topic", 0, 0)
    assert book.offsets_to_commit([PARTITION]) == {}
    new.done()
    assert book.offsets_to_commit([PARTITION]) == {PARTITION: CommitOffset(1, "")}
    assert book.in_flight_count == 0


def test_a_completion_remembered_from_an_old_topic_does_not_finish_the_new_ones_record() -> None:
    book = _book()
    old = _arrive(book, 0, timestamp_ms=111)
    book.revoke()
    assert old is not None
    old.done()
    book.assign({PARTITION: KnownCommit(0)})
    assert _arrive(book, 0, timestamp_ms=222) is not None


def test_a_completion_while_the_partition_is_away_is_remembered() -> None:
    book = _book()
    delivery = _arrive(book, 0)
    assert delivery is not None
    book.revoke()
    delivery.done()
    book.assign({PARTITION: KnownCommit(0)})
    assert _arrive(book, 0) is None
    assert book.offsets_to_commit([PARTITION]) == {PARTITION: CommitOffset(1, "")}


def test_what_was_committed_meanwhile_is_forgotten() -> None:
    book = _book()
    handed_out = [_arrive(book, offset) for offset in range(3)]
    book.revoke()
    for delivery in handed_out:
        assert delivery is not None
        delivery.done()
    assert len(book._finished_elsewhere) == 3
    book.assign({PARTITION: KnownCommit(2)})
    assert list(book._finished_elsewhere) == [("topic", 0, 2)]


def test_memory_of_completions_elsewhere_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_REMEMBERED_LIMIT", 2)
    book = _book()
    handed_out = [_arrive(book, offset) for offset in range(4)]
    book.revoke()
    for delivery in handed_out:
        assert delivery is not None
        delivery.done()
    assert [key[2] for key in book._finished_elsewhere] == [2, 3]


def test_records_of_a_rewound_log_are_handed_out_again() -> None:
    book = _book(5)
    first = _arrive(book, 5)
    assert first is not None
    first.done()
    book.committed(book.offsets_to_commit([PARTITION]), epoch=book.epoch)
    assert _arrive(book, 2, timestamp_ms=999) is not None
    assert _arrive(book, 3, timestamp_ms=999) is not None
    assert book.position(PARTITION) == 4


def test_the_answer_to_a_commit_of_an_earlier_assignment_says_nothing_about_this_one() -> None:
    book = _book()
    delivery = _arrive(book, 0)
    assert delivery is not None
    delivery.done()
    offsets, epoch = book.offsets_to_commit([PARTITION]), book.epoch
    book.revoke()
    book.assign({PARTITION: KnownCommit(0)})
    assert _arrive(book, 0) is not None
    book.committed(offsets, epoch=epoch)
    book._changed.add(PARTITION)
    assert book.offsets_to_commit([PARTITION]) == {}  # still 0, and no complaint about going backwards


def test_what_finishes_while_a_commit_is_under_way_is_committed_next() -> None:
    book = _book()
    first, second = _arrive(book, 0), _arrive(book, 1)
    assert first is not None
    assert second is not None
    first.done()
    under_way = book.offsets_to_commit([PARTITION])
    second.done()
    book.committed(under_way, epoch=book.epoch)
    assert book.offsets_to_commit([PARTITION]) == {PARTITION: CommitOffset(2, "")}


def test_partitions_that_are_not_assigned_are_not_committed() -> None:
    book = _book()
    delivery = _arrive(book, 0)
    assert delivery is not None
    delivery.done()
    assert book.offsets_to_commit([]) == {}


def test_every_completion_is_announced_once_and_the_oldest_is_known() -> None:
    announced: list[None] = []
    book = DeliveryBook(lambda: announced.append(None))
    book.assign({PARTITION: KnownCommit(0)})
    assert book.oldest_received_at() is None
    first, second = _arrive(book, 0), _arrive(book, 1)
    assert first is not None
    assert second is not None
    assert book.oldest_received_at() == 0.0
    first.done()
    first.done()
    assert (len(announced), book.oldest_received_at()) == (1, 1.0)
    assert first.is_done
    assert not second.is_done


def test_what_waits_for_another_record_is_in_flight_and_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_MOST_WAITING", 2)
    book = _book()
    arrived = [_arrive(book, offset) for offset in range(5)]
    for delivery in arrived[1:]:
        assert delivery is not None
        delivery.wait_turn(True)
        delivery.wait_turn(True)
    assert (book.in_flight_count, book.num_working) == (5, 3), "of four that wait two are over the limit"
    assert arrived[4] is not None
    arrived[4].done()
    assert (book.in_flight_count, book.num_working) == (4, 2)
    for delivery in arrived[1:4]:
        assert delivery is not None
        delivery.wait_turn(False)
    assert book.num_working == 4
