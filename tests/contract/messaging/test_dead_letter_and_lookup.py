"""Dead letters keep every byte; a record is found by its coordinates."""

import pytest

from shared.contracts.errors import BrokerUnavailable, PoisonMessage
from shared.contracts.topics import TopicSpecification
from shared.messaging.admin import ensure_topics
from shared.messaging.dead_letter import publish_dead_letter
from shared.messaging.lookup import RecordLookup, fetch_record
from tests.fixtures.kafka_harness import KafkaHarness

pytestmark = pytest.mark.kafka

ODD_HEADERS = (("null", None), ("bytes", b"\xff\xfe\x00"), ("ce_id", b"1"))


async def test_a_dead_letter_keeps_key_value_and_headers_byte_for_byte(harness: KafkaHarness) -> None:
    names = harness.settings.topic_names
    await ensure_topics(
        harness.settings, [TopicSpecification(name=names.dead_letters, partitions=1, purpose="dead letters")]
    )
    topic = await harness.create("poison")
    await harness.producer.send(topic, key=b"\xff", value=b"\x80{not json", headers=ODD_HEADERS)
    async with harness.source(topic) as running:
        await running.until_delivered(1)
        record = running.deliveries[0].record
        await publish_dead_letter(
            harness.producer, names, record, error=PoisonMessage("not JSON: ünsinn"), now_ms=1_234
        )
    letter = await fetch_record(harness.settings, names.dead_letters, 0, 0)
    assert letter is not None
    assert (letter.key, letter.value) == (b"\xff", b"\x80{not json")
    assert letter.headers[:3] == ODD_HEADERS
    assert dict(letter.headers[3:]) == {
        "penstock-dead-letter-reason": "not JSON: ünsinn".encode(),
        "penstock-dead-letter-code": b"poison_message",
        "penstock-dead-letter-time": b"1234",
        "penstock-source-topic": topic.encode(),
        "penstock-source-partition": b"0",
        "penstock-source-offset": b"0",
        "penstock-source-timestamp-ms": str(record.timestamp_ms).encode(),
    }


async def test_a_record_without_key_and_value_becomes_a_dead_letter_too(harness: KafkaHarness) -> None:
    topic = await harness.create("nothing")
    sent = await harness.producer.send(topic, key=None, value=None, headers=[("h", None)])
    letter = await fetch_record(harness.settings, topic, 0, sent.offset)
    assert letter is not None
    assert (letter.key, letter.headers) == (None, (("h", None),))


async def test_a_header_name_that_is_not_utf8_is_sent_on_readably(harness: KafkaHarness) -> None:
    topic = await harness.create("escaped")
    await harness.producer.send(topic, key=b"k", value=b"v", headers=[("\udcffname", b"1"), ("schön", b"2")])
    letter = await fetch_record(harness.settings, topic, 0, 0)
    assert letter is not None
    assert letter.headers == (("\\xffname", b"1"), ("schön", b"2"))


async def test_records_are_found_by_their_coordinates_in_any_order(harness: KafkaHarness) -> None:
    topic = await harness.create("find", partitions=2)
    await harness.post_in_order(topic, 5, partition=1)
    async with RecordLookup(harness.settings) as lookup:
        for offset in (3, 0, 4):
            record = await lookup.fetch(topic, 1, offset)
            assert record is not None
            assert (record.partition, record.offset, record.value) == (1, offset, str(offset).encode())


async def test_a_record_that_is_not_there_is_none(harness: KafkaHarness) -> None:
    topic = await harness.create("absent", partitions=1)
    await harness.post_in_order(topic, 2)
    async with RecordLookup(harness.settings, timeout_seconds=2.0) as lookup:
        assert await lookup.fetch(topic, 0, 2) is None
        assert await lookup.fetch(topic, 0, 10_000) is None
        with pytest.raises(BrokerUnavailable):
            await lookup.fetch(harness.topic("no-such-topic"), 0, 0)
