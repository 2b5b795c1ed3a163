"""The floor on a real Kafka and a real Redis: one time per record, and nothing left behind."""

import asyncio
import time

import pytest
from confluent_kafka.admin import AdminClient
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from services.cli.benchmarks.floor import _Relay, floor_seconds
from services.cli.embedded.ports import free_port

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


async def test_every_record_has_a_time_and_the_topic_is_gone_afterwards(kafka_bootstrap: str, redis_url: str) -> None:
    began = time.perf_counter()
    times = await asyncio.to_thread(floor_seconds, kafka_bootstrap, redis_url, count=8, per_second=50.0)
    assert len(times) == 8
    assert 0 < min(times) <= max(times) < time.perf_counter() - began
    topics = AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).topics
    assert not [name for name in topics if name.startswith("bench-floor-")]


async def test_records_leave_no_faster_than_the_rate(kafka_bootstrap: str, redis_url: str) -> None:
    began = time.perf_counter()
    await asyncio.to_thread(floor_seconds, kafka_bootstrap, redis_url, count=5, per_second=20.0)
    assert time.perf_counter() - began >= 10 / 20.0, "five to warm up and five that count"


async def test_the_relay_hears_what_is_published_to_it_and_passes_over_older_numbers(
    kafka_bootstrap: str, redis_url: str
) -> None:
    relay = _Relay(kafka_bootstrap, redis_url, "bench-floor-by-hand")
    client = Redis.from_url(redis_url)
    try:
        for number in (1, 2, 3):
            client.publish("bench-floor-by-hand", number)
        before = time.perf_counter()
        assert await asyncio.to_thread(relay.heard_at, 3) <= before + 10
    finally:
        relay.close()
        client.close()


def test_without_redis_the_floor_says_so_at_once(kafka_bootstrap: str) -> None:
    with pytest.raises(RedisConnectionError):
        floor_seconds(kafka_bootstrap, f"redis://127.0.0.1:{free_port()}/0", count=1, per_second=1.0)
