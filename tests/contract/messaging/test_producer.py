"""The producers on Apache Kafka: acknowledged, bounded, and alive after a rejected record."""

import asyncio
import time

import pytest
from aiokafka.errors import InvalidTimestampError

from shared.contracts.errors import BrokerUnavailable, InvalidRequest, OutcomeTooLarge
from shared.messaging.producer import RecordProducer
from shared.messaging.reply_producer import ReplyProducer
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import KafkaHarness

pytestmark = pytest.mark.kafka


async def test_an_acknowledged_record_is_where_the_answer_says(harness: KafkaHarness) -> None:
    topic = await harness.create("where", partitions=3)
    sent = await harness.producer.send(topic, key=b"k", value=b"v", partition=2, timestamp_ms=1_700_000_000_123)
    assert (sent.topic, sent.partition, sent.offset) == (topic, 2, 0)
    async with harness.source(topic) as running:
        await running.until_delivered(1)
        record = running.deliveries[0].record
        assert (record.partition, record.offset, record.timestamp_ms) == (2, 0, 1_700_000_000_123)


async def test_equal_keys_go_to_one_partition(harness: KafkaHarness) -> None:
    topic = await harness.create("keys", partitions=8)
    sent = [await harness.producer.send(topic, key=b"same", value=b"v") for _ in range(5)]
    assert len({record.partition for record in sent}) == 1


async def test_a_record_over_our_own_limit_is_refused_and_the_next_one_passes(harness: KafkaHarness) -> None:
    topic = await harness.create("own-limit")
    too_large = b"x" * (harness.settings.max_message_bytes + 1)
    with pytest.raises(OutcomeTooLarge, match=topic):
        await harness.producer.send(topic, key=None, value=too_large)
    assert (await harness.producer.send(topic, key=None, value=b"v")).offset == 0


async def test_a_record_the_broker_rejects_hurts_neither_its_neighbours_nor_its_successors(
    harness: KafkaHarness,
) -> None:
    topic = await harness.create("broker-limit", max_message_bytes="2000")
    good = [harness.producer.send(topic, key=None, value=b"good%d" % index) for index in range(20)]
    bad = harness.producer.send(topic, key=None, value=b"x" * 3_000)
    answers = await asyncio.gather(*good[:10], bad, *good[10:], return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, BaseException)] == [OutcomeTooLarge]
    for _ in range(3):
        await harness.producer.send(topic, key=None, value=b"later")
    async with harness.source(topic) as running:
        await running.until_delivered(23)
        assert set(running.values) == {b"good%d" % index for index in range(20)} | {b"later"}


async def test_a_stale_timestamp_is_refused_and_the_next_record_passes(harness: KafkaHarness) -> None:
    topic = await harness.create("fence", message_timestamp_before_max_ms="60000")
    with pytest.raises(BrokerUnavailable) as refused:
        await harness.producer.send(topic, key=None, value=b"stale", timestamp_ms=1)
    assert isinstance(refused.value.__cause__, InvalidTimestampError)
    assert (await harness.producer.send(topic, key=None, value=b"fresh")).offset == 0


async def test_a_missing_topic_is_an_answer_within_the_time_limit(harness: KafkaHarness) -> None:
    async with RecordProducer(harness.settings, client_id="bounded", timeout_seconds=1.0) as producer:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="nowhere"):
            await producer.send(harness.topic("nowhere"), key=None, value=b"v")
        assert time.monotonic() - started < 5


async def test_a_missing_partition_is_an_answer(harness: KafkaHarness) -> None:
    topic = await harness.create("two", partitions=2)
    with pytest.raises(BrokerUnavailable, match="partition 7"):
        await harness.producer.send(topic, key=None, value=b"v", partition=7)


async def test_no_broker_is_an_answer() -> None:
    producer = RecordProducer(KafkaSettings(bootstrap_servers="127.0.0.1:1"), client_id="nobody")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        async with producer:
            pass


async def test_a_reply_reaches_its_topic(harness: KafkaHarness) -> None:
    topic = await harness.create("answers")
    async with ReplyProducer(harness.settings, client_id="test") as replies:
        assert (await replies.send(topic, key=b"k", value=b"v", headers=[("h", None)])).offset == 0


async def test_a_reply_to_a_missing_topic_is_refused_at_once_again_and_again(harness: KafkaHarness) -> None:
    async with ReplyProducer(harness.settings, client_id="test", timeout_seconds=2.0) as replies:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(InvalidRequest, match="does not exist") as caught:
                await replies.send(harness.topic("nowhere"), key=None, value=b"v")
            assert caught.value.param == "penstock-reply-to"
            assert time.monotonic() - started < 1


async def test_a_reply_topic_made_later_is_found(harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.messaging.reply_producer._REMEMBER_ABSENT_SECONDS", 0.0)
    async with ReplyProducer(harness.settings, client_id="test") as replies:
        with pytest.raises(InvalidRequest):
            await replies.send(harness.topic("late"), key=None, value=b"v")
        topic = await harness.create("late")
        assert (await replies.send(topic, key=None, value=b"v")).offset == 0


@pytest.mark.parametrize("name", ["__consumer_offsets", "", "inference.requests.default.bulk", "inference.results"])
async def test_a_reply_into_the_platforms_own_topics_is_refused(harness: KafkaHarness, name: str) -> None:
    topic = name if name in ("", "__consumer_offsets") else harness.topic(name)
    async with ReplyProducer(harness.settings, client_id="test") as replies:
        with pytest.raises(InvalidRequest, match="not a topic for replies"):
            await replies.send(topic, key=None, value=b"v")
