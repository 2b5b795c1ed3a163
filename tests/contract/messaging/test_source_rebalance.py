"""The request source through rebalances and saturation on Apache Kafka."""

import asyncio

import pytest
from aiokafka.structs import TopicPartition

from tests.fixtures.kafka_harness import KafkaHarness, until, until_async

pytestmark = pytest.mark.kafka


async def _rebalance(harness: KafkaHarness, topic: str, running) -> None:  # type: ignore[no-untyped-def]
    """A guest comes and goes: two rebalances."""
    epoch = running.source.epoch
    async with harness.source(topic, name="guest") as guest:
        await until(lambda: guest.source.epoch and running.source.epoch > epoch, what="the guest joined")
    await until(lambda: running.source.epoch >= epoch + 2, what="the guest left")
    await until(lambda: running.source.assignment, what="assigned again")


async def test_records_in_flight_are_not_delivered_again_by_a_rebalance(harness: KafkaHarness) -> None:
    topic = await harness.create("again")
    await harness.post_in_order(topic, 5)
    async with harness.source(topic) as running:
        await running.until_delivered(5)
        await _rebalance(harness, topic, running)
        await harness.post(topic, [b"sentinel"])
        await until(lambda: running.values[-1] == b"sentinel", what="the record after the rebalance")
        assert running.offsets == [0, 1, 2, 3, 4, 5]
        assert all(running.source.is_in_flight(topic, 0, offset) for offset in range(6))

        running.finish(0, 1, 2, 3, 4, 5)
        await running.source.commit_now()
        assert await harness.committed_offset(topic) == 6


async def test_a_completion_during_a_rebalance_is_remembered_and_the_record_skipped(
    harness: KafkaHarness,
) -> None:
    topic = await harness.create("late")
    await harness.post_in_order(topic, 3)
    async with harness.source(topic, name="first") as running:
        await running.until_delivered(3)
        async with harness.source(topic, name="second") as guest:
            await until(lambda: running.source.epoch >= 2 and guest.source.epoch, what="rebalanced")
            running.finish(0, 1, 2)  # whoever owns the partition now, these are done
        await until(lambda: running.source.epoch >= 3 and running.source.assignment, what="back again")
        await harness.post(topic, [b"sentinel"])
        await until(lambda: running.values[-1] == b"sentinel")
        assert running.offsets == [0, 1, 2, 3]
        running.finish(3)

        async def is_all_committed() -> bool:
            return await harness.committed_offset(topic) == 4

        await until_async(is_all_committed)


async def test_a_paused_intake_stays_paused_through_a_rebalance(harness: KafkaHarness) -> None:
    topic = await harness.create("paused")
    async with harness.source(topic) as running:
        await running.until_assigned(1)
        running.source.pause_intake()
        await harness.post_in_order(topic, 3)
        await _rebalance(harness, topic, running)
        polls_from = running.source._last_poll_at
        await until(lambda: running.source._last_poll_at > polls_from + 0.5, what="polling goes on")
        assert running.deliveries == []
        running.source.resume_intake()
        await running.until_delivered(3)


async def test_a_saturated_source_takes_no_more_than_its_mark_and_goes_on_when_work_ends(
    harness: KafkaHarness,
) -> None:
    topic = await harness.create("saturated")
    await harness.post_in_order(topic, 20)
    async with harness.source(topic, high_mark=4, low_mark=2) as running:
        await running.until_delivered(4)
        await _rebalance(harness, topic, running)
        assert running.offsets == [0, 1, 2, 3]
        for _ in range(20):
            await until(lambda: any(not delivery.is_done for delivery in running.deliveries))
            assert running.source.in_flight_count <= 4
            next(delivery for delivery in running.deliveries if not delivery.is_done).done()
        assert running.offsets == list(range(20))


async def test_membership_survives_saturation_for_longer_than_the_session(harness: KafkaHarness) -> None:
    topic = await harness.create("member")
    await harness.post_in_order(topic, 2)
    async with harness.source(topic, high_mark=1, low_mark=0) as running:
        await running.until_delivered(1)
        epoch = running.source.epoch
        started = asyncio.get_running_loop().time()
        session_seconds = harness.settings.session_timeout_ms / 1000
        await until(
            lambda: asyncio.get_running_loop().time() - started > session_seconds + 1, seconds=session_seconds + 5
        )
        assert running.source.epoch == epoch
        assert running.source.last_poll_age_seconds < 1
        assert running.source.oldest_unfinished_age_seconds > session_seconds
        running.finish(0)
        await running.until_delivered(2)


async def test_partitions_of_a_lost_member_move_and_the_others_stay(harness: KafkaHarness) -> None:
    topic = await harness.create("sticky", partitions=6)
    async with harness.source(topic, name="a") as first, harness.source(topic, name="b") as second:
        await until(lambda: len(first.source.assignment) == len(second.source.assignment) == 3)
        before = set(second.source.assignment)
        async with harness.source(topic, name="c") as third:
            await until(lambda: len(third.source.assignment) == len(second.source.assignment) == 2)
            assert set(second.source.assignment) < before
            kept = set(second.source.assignment)
        await until(lambda: len(first.source.assignment) == len(second.source.assignment) == 3)
        assert kept < set(second.source.assignment)


async def test_urgent_topics_are_read_first_when_room_is_scarce(harness: KafkaHarness) -> None:
    resume = await harness.create("resume")
    interactive = await harness.create("interactive")
    bulk = await harness.create("bulk")
    for topic in (bulk, interactive, resume):
        await harness.post(topic, [topic.encode()] * 30)
    topics = (resume, interactive, bulk)
    async with harness.source(*topics, high_marks=(8, 8, 4), high_mark=8, low_mark=7) as running:
        await running.until_delivered(8)
        while len(running.deliveries) < 90:
            open_delivery = next((delivery for delivery in running.deliveries if not delivery.is_done), None)
            if open_delivery is not None:
                open_delivery.done()
            await asyncio.sleep(0)
        order = [delivery.record.topic for delivery in running.deliveries]
    # The very first fetch may bring any topic; from then on the urgent ones win.
    assert order.index(interactive) < 40
    assert order[:40].count(resume) >= 29
    assert order[:70].count(interactive) >= 29
    assert order[70:].count(bulk) >= 19


async def test_bulk_never_fills_the_room_that_interactive_requests_need(harness: KafkaHarness) -> None:
    interactive = await harness.create("interactive")
    bulk = await harness.create("bulk")
    await harness.post(bulk, [b"bulk"] * 50)
    async with harness.source(interactive, bulk, high_mark=8, high_marks=(8, 4)) as running:
        await running.until_delivered(4)
        await harness.post(interactive, [b"now"] * 4)
        await running.until_delivered(8)
        assert running.values == [b"bulk"] * 4 + [b"now"] * 4


async def test_the_lag_counts_what_waits_in_kafka(harness: KafkaHarness) -> None:
    topic = await harness.create("lag", partitions=2)
    await harness.post(topic, [b"x"] * 7, partition=0)
    await harness.post(topic, [b"x"] * 5, partition=1)
    async with harness.source(topic, high_mark=3) as running:
        await running.until_delivered(3)
        assert await running.source.measure_lag() == {topic: 9}


async def test_lag_is_unknown_while_partitions_change_hands_not_all_that_was_ever_posted(harness: KafkaHarness) -> None:
    topic = await harness.create("moving-lag")
    await harness.post(topic, [b"x"] * 7)
    async with harness.source(topic) as running:
        running.finishes_at_once = True
        await running.until_delivered(7)
        measured: list[dict[str, int] | None] = []
        held, revoked = running.source._load_assignment, running.source._partitions_revoked

        async def load_late() -> None:
            measured.append(await running.source.measure_lag())
            await held()

        running.source._load_assignment = load_late  # type: ignore[method-assign]
        await revoked()
        running.source._partitions_assigned({TopicPartition(topic, 0)})
        await until(lambda: measured and running.source._is_loaded, what="the partition is loaded again")
        measured.append(await running.source.measure_lag())
    assert measured == [None, {topic: 0}]
