"""Records of every shape pass through the source untouched."""

import aiokafka.producer.message_accumulator as message_accumulator
import aiokafka.producer.producer as producer_module
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record import default_records
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

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


@pytest.mark.parametrize("compression", [None, "gzip", "lz4"])
async def test_a_header_name_that_is_not_utf8_does_not_stop_the_partition(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    topic = await harness.create("names")
    await harness.post(topic, [b"before"])
    await _post_with_raw_header_name(harness, topic, monkeypatch, compression)
    await harness.post(topic, [b"after"])
    async with harness.source(topic) as running:
        await running.until_delivered(4)
        assert running.values == [b"before", b"value", b"neighbour", b"after"]
        (name, value), good = running.deliveries[1].record.headers
        assert name.encode("utf-8", "surrogateescape") == RAW_NAME
        assert value == b"\xff"
        assert good == ("good", None)


RAW_NAME = b"\xff\xfename"


class _RawName(str):
    """A header name that other clients could write: any bytes."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return RAW_NAME


async def _post_with_raw_header_name(
    harness: KafkaHarness, topic: str, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    """By aiokafka's Python encoder: the compiled one insists on real str objects."""
    with monkeypatch.context() as patch:
        patch.setattr(message_accumulator, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy, raising=False)
        patch.setattr(default_records, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        patch.setattr(producer_module, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
        async with AIOKafkaProducer(
            bootstrap_servers=harness.settings.bootstrap_servers, compression_type=compression, linger_ms=20
        ) as producer:
            first = producer.send(topic, b"value", headers=[(_RawName("x"), b"\xff"), ("good", None)])
            second = producer.send(topic, b"neighbour")
            for sent in (await first, await second):
                await sent


async def test_a_source_without_a_broker_says_so() -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        async with RequestSource(settings, group="g", topics=["t"], client_id="c", high_mark=1):
            pass
