"""Commits of the request source on Apache Kafka: in order, with metadata, never backwards."""

import asyncio
from collections.abc import Collection

import pytest
from aiokafka.structs import TopicPartition

from shared.messaging.deliveries import KnownCommit
from shared.messaging.offset_tracker import decode_finished
from tests.fixtures.kafka_harness import KafkaHarness, until, until_async

pytestmark = pytest.mark.kafka


async def test_with_five_in_flight_a_finished_one_in_the_middle_commits_no_more_than_the_first_unfinished(
    harness: KafkaHarness,
) -> None:
    topic = await harness.create("five")
    await harness.post_in_order(topic, 5)
    async with harness.source(topic) as running:
        await running.until_delivered(5)
        running.finish(2)
        await running.source.commit_now()
        committed = await harness.committed(topic)
        assert committed is not None
        assert committed.offset == 0
        assert decode_finished(0, committed.metadata) == {2}

        running.finish(0, 1)
        await running.source.commit_now()
        assert await harness.committed_offset(topic) == 3


async def test_finished_offsets_above_the_commit_point_are_skipped_after_a_restart(harness: KafkaHarness) -> None:
    topic = await harness.create("restart")
    await harness.post_in_order(topic, 10)
    async with harness.source(topic) as running:
        await running.until_delivered(10)
        running.finish(0, 2, 5, 6, 9)
    async with harness.source(topic) as running:
        await running.until_delivered(5)
        await harness.post(topic, [b"sentinel"])
        await running.until_delivered(6)
        assert running.offsets == [1, 3, 4, 7, 8, 10]


async def test_a_restart_that_finishes_nothing_keeps_what_the_metadata_said(harness: KafkaHarness) -> None:
    topic = await harness.create("keep")
    await harness.post_in_order(topic, 6)
    async with harness.source(topic) as running:
        await running.until_delivered(6)
        running.finish(3, 5)
    for _ in range(2):
        async with harness.source(topic) as running:
            await running.until_delivered(4)
            await running.source.commit_now()
    committed = await harness.committed(topic)
    assert committed is not None
    assert committed.offset == 0
    assert decode_finished(committed.offset, committed.metadata) == {3, 5}


async def test_commits_happen_by_themselves_and_only_when_something_changed(harness: KafkaHarness) -> None:
    topic = await harness.create("regular")
    await harness.post_in_order(topic, 3)
    async with harness.source(topic) as running:
        running.finishes_at_once = True
        await running.until_delivered(3)

        async def is_committed() -> bool:
            return await harness.committed_offset(topic) == 3

        await until_async(is_committed, seconds=5)
        await until(lambda: not running.source._book.offsets_to_commit([TopicPartition(topic, 0)]))


async def test_leaving_the_context_commits_what_was_finished_last(harness: KafkaHarness) -> None:
    topic = await harness.create("leave")
    await harness.post_in_order(topic, 4)
    async with harness.source(topic, commit_interval_ms=60_000) as running:
        await running.until_delivered(4)
        running.finish(0, 1, 2, 3)
    assert await harness.committed_offset(topic) == 4


@pytest.mark.parametrize("told", [None, 2])
async def test_a_source_that_is_told_an_old_commit_goes_on_at_the_true_one_and_never_commits_a_lower(
    harness: KafkaHarness, told: int | None
) -> None:
    topic = await harness.create("old-commit")
    await harness.post_in_order(topic, 8)
    async with harness.source(topic) as running:
        running.finishes_at_once = True
        await running.until_delivered(8)
    async with harness.source(topic) as running:
        running.finishes_at_once = True
        where, read, answers = TopicPartition(topic, 0), running.source._reader.read, 0

        async def old_once(partitions: Collection[TopicPartition]) -> dict[TopicPartition, KnownCommit] | None:
            nonlocal answers
            answers += 1
            if answers > 1:
                return await read(partitions)
            running.source._consumer_or_fail().seek(where, told or 0)
            return {} if told is None else {where: KnownCommit(told)}

        running.source._reader.read = old_once  # type: ignore[method-assign]
        running.source._is_loaded = False
        await until(lambda: answers == 2, what="Kafka is asked again before the first commit")
        await harness.post(topic, [b"new"])
        await until(lambda: running.offsets[-1] == 8, what="the new record")
        assert running.offsets[0] == (told or 0), "it did begin too early"

        async def is_committed() -> bool:
            committed = await harness.committed_offset(topic) or 0
            assert committed >= 8
            return committed == 9

        await until_async(is_committed)
    assert await harness.committed_offset(topic) == 9


async def test_a_thousand_records_posted_while_nobody_listens_are_all_delivered_once_after_the_start(
    harness: KafkaHarness,
) -> None:
    topic = await harness.create("thousand", partitions=6)
    values = [str(index).encode() for index in range(1_000)]
    await harness.post(topic, values, partition=None)
    async with harness.source(topic) as running:
        running.finishes_at_once = True
        await running.until_delivered(1_000)
        assert sorted(value or b"" for value in running.values) == sorted(values)
    assert sum([await harness.committed_offset(topic, partition) or 0 for partition in range(6)]) == 1_000


async def test_committed_offsets_never_go_back_through_joins_and_leaves(harness: KafkaHarness) -> None:
    partitions = 4
    topic = await harness.create("joins", partitions=partitions)
    highest = dict.fromkeys(range(partitions), 0)
    finished: set[bytes | None] = set()

    async def watch() -> None:
        while True:
            for partition in range(partitions):
                committed = await harness.committed_offset(topic, partition) or 0
                assert committed >= highest[partition], f"partition {partition} went back"
                highest[partition] = committed
            await asyncio.sleep(0.01)

    async def post() -> None:
        for index in range(400):
            await harness.post(topic, [str(index).encode()], partition=index % partitions)

    watcher = asyncio.create_task(watch())
    async with harness.source(topic, name="steady") as steady:
        await steady.until_assigned(partitions)
        posting = asyncio.create_task(post())
        for visit in range(3):
            async with harness.source(topic, name=f"guest{visit}") as guest:
                await until(lambda guest=guest: guest.source.assignment, what="the guest got partitions")  # type: ignore[misc]
                await until(lambda guest=guest: guest.deliveries, what="the guest got records")  # type: ignore[misc]
                for running in (steady, guest):  # every second one, newest first: out of order
                    for delivery in reversed(running.deliveries[::2]):
                        delivery.done()
                        finished.add(delivery.record.value)
        await posting
        steady.finishes_at_once = True
        for delivery in reversed(steady.deliveries):
            delivery.done()

        async def is_everything_committed() -> bool:
            for delivery in reversed(steady.deliveries):
                delivery.done()
            return (
                sum([await harness.committed_offset(topic, partition) or 0 for partition in range(partitions)]) == 400
            )

        await until_async(is_everything_committed)
        finished.update(steady.values)
    assert not watcher.done(), watcher
    watcher.cancel()
    assert finished >= {str(index).encode() for index in range(400)}
