"""One long-lived producer, as a stranger keeps it, against a real Kafka."""

import asyncio
import uuid

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from services.cli.foreign_clients.kafka_client import Poster, post

pytestmark = pytest.mark.kafka


async def topic_of_two_partitions(bootstrap_servers: str) -> str:
    name = f"posted-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    await asyncio.to_thread(admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result)
    return name


async def test_a_poster_posts_again_and_again_and_says_where_each_record_lies(kafka_bootstrap: str) -> None:
    topic = await topic_of_two_partitions(kafka_bootstrap)
    poster = Poster(kafka_bootstrap)
    receipts = [
        receipt
        for round_number in range(3)
        for receipt in await asyncio.to_thread(poster.post, topic, [b"%d" % round_number] * 4)
    ]
    assert len(set(receipts)) == 12
    assert {receipt.topic for receipt in receipts} == {topic}
    for partition in {receipt.partition for receipt in receipts}:
        offsets = sorted(receipt.offset for receipt in receipts if receipt.partition == partition)
        assert offsets == list(range(len(offsets)))


async def test_posting_once_is_the_same_with_a_producer_of_its_own(kafka_bootstrap: str) -> None:
    topic = await topic_of_two_partitions(kafka_bootstrap)
    first = await asyncio.to_thread(post, kafka_bootstrap, topic, [b"a", b"b"])
    second = await asyncio.to_thread(post, kafka_bootstrap, topic, [b"c"])
    assert len({*first, *second}) == 3


async def test_nothing_to_post_is_no_error(kafka_bootstrap: str) -> None:
    assert await asyncio.to_thread(Poster(kafka_bootstrap).post, "unused", []) == []
