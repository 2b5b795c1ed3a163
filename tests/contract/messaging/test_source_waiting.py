"""Records that are not due, and records that wait for others, stand in nobody's way."""

import time

import pytest

from shared.messaging.deliveries import Delivery
from shared.messaging.records import SourceRecord
from tests.fixtures.kafka_harness import KafkaHarness, until

pytestmark = pytest.mark.kafka


class Diary:
    """When which value is due; every other one is at once."""

    def __init__(self) -> None:
        self.due_at: dict[bytes, float] = {}

    def hold_back(self, record: SourceRecord) -> float:
        return self.due_at.get(record.value or b"", 0.0) - time.monotonic()


async def test_a_record_that_is_not_due_pauses_its_partition_and_nothing_else(harness: KafkaHarness) -> None:
    later, fresh = await harness.create("later", partitions=2), await harness.create("fresh")
    diary = Diary()
    diary.due_at = {b"late": time.monotonic() + 3_600}
    await harness.post(later, [b"late"])
    await harness.post(later, [b"behind"])
    await harness.post(later, [b"beside"], partition=1)
    await harness.post(fresh, [b"fresh"])
    async with harness.source(later, fresh, hold_back=diary.hold_back) as running:
        await running.until_delivered(2)
        assert set(running.values) == {b"beside", b"fresh"}
        assert running.source.in_flight_count == 2, "what is not due is in nobody's hand"
        await harness.post(fresh, [b"more"])
        await running.until_delivered(3)
        assert await harness.committed_offset(later) is None


async def test_when_it_is_due_it_comes_and_what_lies_behind_it_follows(harness: KafkaHarness) -> None:
    later = await harness.create("later")
    diary = Diary()
    diary.due_at = {b"late": time.monotonic() + 1.0}
    await harness.post_in_order(later, 2)
    await harness.post(later, [b"late"])
    await harness.post(later, [b"behind"])
    async with harness.source(later, hold_back=diary.hold_back) as running:
        running.finishes_at_once = True
        await running.until_delivered(4)
        assert time.monotonic() >= diary.due_at[b"late"]
        assert running.values == [b"0", b"1", b"late", b"behind"]
        assert running.offsets == [0, 1, 2, 3]


async def test_a_rebalance_while_a_partition_rests_loses_and_repeats_nothing(harness: KafkaHarness) -> None:
    later = await harness.create("later", partitions=2)
    diary = Diary()
    diary.due_at = {b"late": time.monotonic() + 3_600}
    for partition in range(2):
        await harness.post(later, [b"late", b"behind"], partition=partition)
    async with harness.source(later, hold_back=diary.hold_back) as first:
        first.finishes_at_once = True
        await first.until_assigned(2)
        async with harness.source(later, name="b", hold_back=diary.hold_back) as second:
            second.finishes_at_once = True
            await second.until_assigned(1)
            await first.until_assigned(1)
            diary.due_at.clear()
            await until(lambda: len(first.deliveries) + len(second.deliveries) == 4, seconds=45)
    assert sorted([*first.values, *second.values], key=str) == [b"behind"] * 2 + [b"late"] * 2


async def test_records_that_wait_for_others_leave_room_for_the_rest(harness: KafkaHarness) -> None:
    topic = await harness.create("orders")
    await harness.post_in_order(topic, 20)
    async with harness.source(topic, high_mark=4) as running:
        take = running.take

        def let_wait(delivery: Delivery) -> None:
            take(delivery)
            if len(running.deliveries) > 1:
                delivery.wait_turn(True)

        running.take = let_wait  # type: ignore[method-assign]
        await running.until_delivered(4)
        for delivery in running.deliveries[1:4]:
            delivery.wait_turn(True)
        running.deliveries[1].done()
        await running.until_delivered(5)
