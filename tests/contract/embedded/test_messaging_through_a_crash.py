"""Source and producer while the broker is killed and comes back."""

import asyncio
from pathlib import Path

import pytest

from services.cli.embedded.kafka import EmbeddedKafka
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.topics import TopicSpecification
from shared.messaging.admin import ensure_topics
from shared.messaging.producer import RecordProducer
from shared.messaging.source import Delivery, RequestSource
from shared.settings.kafka import KafkaSettings
from tests.fixtures.kafka_harness import until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def test_a_source_and_a_producer_outlive_a_crash_of_the_broker(tmp_path: Path) -> None:
    kafka = await EmbeddedKafka(tmp_path).start_async()
    try:
        settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers, session_timeout_ms=6_000)
        await ensure_topics(settings, [TopicSpecification(name="t", partitions=1, purpose="a test")])
        taken: list[Delivery] = []
        source = RequestSource(settings, group="g", topics=["t"], client_id="c", high_mark=100)
        producer = RecordProducer(settings, client_id="p", timeout_seconds=2.0)
        async with asyncio.TaskGroup() as tasks, source, producer:
            tasks.create_task(source.run(taken.append))
            await producer.send("t", key=None, value=b"before")
            await until(lambda: taken)
            kafka.kill()
            with pytest.raises(BrokerUnavailable):
                await producer.send("t", key=None, value=b"meanwhile")
            taken[0].done()
            await kafka.start_async()
            sent = None
            while sent is None:
                try:
                    sent = await producer.send("t", key=None, value=b"after")
                except BrokerUnavailable:
                    continue
            await until(lambda: taken[-1].record.value == b"after", seconds=30)
            values = [delivery.record.value for delivery in taken if delivery.record.value != b"meanwhile"]
            assert values[0] == b"before"
            assert set(values[1:]) == {b"after"}
    finally:
        kafka.kill()
