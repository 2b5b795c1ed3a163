"""Following a compacted topic on a real Kafka: all there was, then all that comes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.compacted_topic import TopicChange, follow_compacted
from tests.fixtures.kafka_harness import KafkaHarness

pytestmark = pytest.mark.kafka


async def post(harness: KafkaHarness, topic: str, *values: bytes) -> None:
    for value in values:
        await harness.producer.send(topic, key=b"key of " + value, value=value, headers=())


async def next_values(changes: AsyncIterator[TopicChange]) -> tuple[list[bytes | None], bool]:
    async with asyncio.timeout(15):
        change = await anext(changes)
    return [record.value for record in change.records], change.is_complete


async def test_an_empty_topic_is_complete_at_once_and_then_brings_what_is_posted(harness: KafkaHarness) -> None:
    topic = await harness.create("keys", cleanup_policy="compact")
    async with aclosing(follow_compacted(harness.settings, topic, client_id="test")) as changes:
        assert await next_values(changes) == ([], True)
        await post(harness, topic, b"later")
        assert await next_values(changes) == ([b"later"], True)


async def test_everything_there_comes_before_completeness(harness: KafkaHarness) -> None:
    topic = await harness.create("keys", cleanup_policy="compact")
    await post(harness, topic, b"0", b"1", b"2")
    seen: list[bytes | None] = []
    async with aclosing(follow_compacted(harness.settings, topic, client_id="test")) as changes:
        is_complete = False
        while not is_complete:
            values, is_complete = await next_values(changes)
            seen += values
    assert seen == [b"0", b"1", b"2"]


async def test_a_topic_that_is_not_there_is_said_to_be_missing(harness: KafkaHarness) -> None:
    topic = harness.topic("absent")
    async with aclosing(follow_compacted(harness.settings, topic, client_id="test")) as changes:
        with pytest.raises(BrokerUnavailable, match=f"no topic {topic}: `penstock topics apply`"):
            await anext(changes)
