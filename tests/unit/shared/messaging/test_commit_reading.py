"""Commits as a coordinator tells them that has just come back: old ones are doubted, and never committed over."""

from typing import Any

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs

from shared.messaging.commit_reading import CommitReader
from shared.messaging.commit_writer import CommitWriter
from shared.messaging.deliveries import DeliveryBook, KnownCommit
from shared.messaging.offset_tracker import encode_finished
from shared.messaging.records import SourceRecord
from shared.resilience.clock import ManualClock

PARTITION = TopicPartition("topic", 0)


class ScriptedKafka:
    """Answers what it was told to; takes commits and seeks."""

    def __init__(self, *answers: int | None, end: int = 1_000) -> None:
        self.answers = list(answers)
        self.end = end
        self.metadata = ""
        self.commits: list[int] = []
        self.seeks: list[int] = []
        self.on_answer: Any = lambda: None

    async def list_consumer_group_offsets(
        self, group: str, *, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        answer = self.answers.pop(0)
        self.on_answer()
        return {} if answer is None else {PARTITION: OffsetAndMetadata(answer, self.metadata)}

    async def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits.append(offsets[PARTITION].offset)

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.end)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.seeks.append(offset)


def _reader(kafka: ScriptedKafka, clock: ManualClock | None = None) -> CommitReader:
    return CommitReader(lambda: kafka, group="workers", clock=clock or ManualClock())


class Member:
    """A member of the group that begins with what it was told."""

    def __init__(self, kafka: ScriptedKafka) -> None:
        self.book = DeliveryBook()
        self.kafka = kafka
        self.reader = _reader(kafka)
        self.writer = CommitWriter(
            self.book, group="workers", reader=self.reader, consumer=lambda: kafka, assigned=lambda: [PARTITION]
        )

    async def begin(self) -> None:
        commits = await self.reader.read([PARTITION])
        assert commits is not None
        self.book.assign(commits)

    def work(self, *offsets: int) -> None:
        for offset in offsets:
            record = SourceRecord(
                topic="topic", partition=0, offset=offset, timestamp_ms=offset, key=None, value=b"v", headers=()
            )
            if (delivery := self.book.arrived(record, PARTITION, received_at=0.0)) is not None:
                delivery.done()


async def test_an_answer_below_what_this_process_committed_is_doubted_until_kafka_knows_better() -> None:
    kafka = ScriptedKafka(40, -1, 137)
    reader = _reader(kafka)
    reader.committed({PARTITION: 137})
    with capture_logs() as logs:
        assert await reader.read([PARTITION]) is None
        assert await reader.read([PARTITION]) is None
        assert await reader.read([PARTITION]) == {PARTITION: KnownCommit(137)}
    assert [(log["told"], log["last"]) for log in logs] == [(40, 137)], "said once, not with every answer"


async def test_what_was_read_is_doubted_like_what_was_committed() -> None:
    reader = _reader(ScriptedKafka(5, 4))
    assert await reader.read([PARTITION]) is not None
    assert await reader.read([PARTITION]) is None


async def test_a_lower_answer_that_stays_is_believed_in_the_end_because_the_topic_was_made_anew() -> None:
    clock = ManualClock()
    reader = _reader(ScriptedKafka(3, 3, 3, 3), clock)
    reader.committed({PARTITION: 137})
    assert await reader.read([PARTITION]) is None
    clock.move(9.9)
    assert await reader.read([PARTITION]) is None
    clock.move(0.2)
    assert await reader.read([PARTITION]) == {PARTITION: KnownCommit(3)}
    assert await reader.read([PARTITION]) == {PARTITION: KnownCommit(3)}, "3 is what is known now"


async def test_no_commit_at_all_is_no_entry_and_its_metadata_says_what_is_finished_above() -> None:
    kafka = ScriptedKafka(-1, 7)
    reader = _reader(kafka)
    assert await reader.read([PARTITION]) == {}
    kafka.metadata = encode_finished(7, [9])
    assert await reader.read([PARTITION]) == {PARTITION: KnownCommit(7, frozenset({9}))}


async def test_an_answer_without_our_partition_is_an_error() -> None:
    with pytest.raises(GroupCoordinatorNotAvailableError):
        await _reader(ScriptedKafka(None)).read([PARTITION])


@pytest.mark.parametrize("told", [-1, 0, 19])
async def test_a_member_that_was_told_an_old_commit_goes_on_at_the_true_one_and_commits_nothing_lower(
    told: int,
) -> None:
    member = Member(kafka := ScriptedKafka(told, 137))
    await member.begin()
    member.work(max(told, 0), max(told, 0) + 1)
    await member.writer.commit_now()
    assert (kafka.commits, kafka.seeks) == ([], [137]), "nothing to commit: Kafka has it"
    member.work(137)
    await member.writer.commit_now()
    assert kafka.commits == [138], "and Kafka is not asked a third time"


async def test_what_was_read_above_the_true_commit_stays_read() -> None:
    member = Member(kafka := ScriptedKafka(3, 5))
    await member.begin()
    member.work(3, 4, 5, 6)
    await member.writer.commit_now()
    assert (kafka.commits, kafka.seeks) == ([7], [])


async def test_while_the_second_answer_is_in_doubt_nothing_is_committed() -> None:
    member = Member(kafka := ScriptedKafka(137, 40, 137))
    await member.begin()
    member.work(137)
    await member.writer.commit_now()
    assert kafka.commits == []
    await member.writer.commit_now()
    assert kafka.commits == [138]


async def test_a_log_that_lost_its_end_is_read_anew_and_committed_lower() -> None:
    """Its offsets repeat: the commit above its end belongs to records that are gone."""
    member = Member(kafka := ScriptedKafka(137, 137, end=12))
    await member.begin()
    member.work(0, 1)
    await member.writer.commit_now()
    assert (kafka.commits, kafka.seeks) == ([2], [])


async def test_partitions_that_are_taken_away_while_kafka_is_asked_are_not_committed() -> None:
    member = Member(kafka := ScriptedKafka(0, 0))
    await member.begin()
    member.work(0)
    kafka.on_answer = member.book.revoke
    await member.writer.commit_now()
    assert (kafka.commits, kafka.seeks) == ([], [])
