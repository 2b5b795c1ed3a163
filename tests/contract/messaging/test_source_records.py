"""Records of every shape pass through the source untouched."""

import asyncio
import struct

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.source import RequestSource
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import KafkaHarness

pytestmark = pytest.mark.kafka

ODD_HEADERS = (("null", None), ("bytes", b"\xff\xfe\x00"), ("twice", b"1"), ("twice", b"2"), ("", b"nameless"))


async def test_null_and_non_utf8_headers_keys_and_values_come_through_byte_for_byte(harness: KafkaHarness) -> None:
    topic = await harness.create("odd")
    await harness.producer.send(topic, key=b"\xff\x00", value=b"\x80\x81", headers=ODD_HEADERS)
    await harness.producer.send(topic, key=b"tombstone", value=None, headers=())
    await harness.producer.send(topic, key=None, value=b"", headers=())
    async with harness.source(topic) as running:
        await running.until_delivered(3)
        odd, tombstone, empty = (delivery.record for delivery in running.deliveries)
        assert (odd.key, odd.value, odd.headers) == (b"\xff\x00", b"\x80\x81", ODD_HEADERS)
        assert (tombstone.key, tombstone.value) == (b"tombstone", None)
        assert (empty.key, empty.value) == (None, b"")
        assert odd.header("twice") == b"1"
        assert odd.timestamp_ms > 0


async def test_a_header_name_that_is_not_utf8_does_not_stop_the_partition(harness: KafkaHarness) -> None:
    topic = await harness.create("names")
    await _post_with_raw_header_name(harness.settings, topic, name=b"\xff\xfename", value=b"v")
    await harness.post(topic, [b"after"])
    async with harness.source(topic) as running:
        await running.until_delivered(2)
        assert running.values == [b"value", b"after"]
        ((name, value),) = running.deliveries[0].record.headers
        assert name.encode("utf-8", "surrogateescape") == b"\xff\xfename"
        assert value == b"v"


async def _post_with_raw_header_name(settings: KafkaSettings, topic: str, *, name: bytes, value: bytes) -> None:
    """aiokafka's encoder wants str names; other clients write any bytes. librdkafka is one of them."""
    from confluent_kafka import Producer

    marker = "NAMEMARK1"[: len(name)].ljust(len(name), "x")
    assert len(marker.encode()) == len(name)
    port = await _corrupting_proxy(settings.bootstrap_servers, marker.encode(), name)
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{port}", "check.crcs": False})
    producer.produce(topic, value=b"value", headers=[(marker, value)], partition=0)
    await asyncio.to_thread(producer.flush, 10)


async def test_a_source_without_a_broker_says_so() -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match="127.0.0.1:1"):
        async with RequestSource(settings, group="g", topics=["t"], client_id="c", high_mark=1):
            pass
