"""The floor: what the same machine needs at the same rate for Kafka and Redis alone, without the platform.

One record from a `confluent-kafka` producer, acknowledged by all, to a consumer; there one Redis script that writes a
key and publishes; back by pub/sub. No HTTP, no tokenizer, no ledger, no code of ours on the way. Measured in the same
run as the platform, so that the ratio of the two says more than either: both suffer from the same neighbours.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from redis import Redis
from redis.client import PubSub

_SCRIPT = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000)
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
"""
_WARM_UP_RECORDS = 5
_ANSWER_SECONDS = 10.0


def floor_seconds(bootstrap_servers: str, redis_url: str, *, count: int, per_second: float) -> list[float]:
    """Seconds from posting a record to hearing of it, for `count` records at a fixed rate. Blocks."""
    name = f"bench-floor-{uuid.uuid4().hex}"
    with _topic(bootstrap_servers, name):
        relay = _Relay(bootstrap_servers, redis_url, name)
        producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0, "acks": "all"})
        try:
            return _measure(producer, relay, name, count=count, per_second=per_second)
        finally:
            relay.close()


def _measure(producer: Producer, relay: _Relay, topic: str, *, count: int, per_second: float) -> list[float]:
    times: list[float] = []
    for number in range(_WARM_UP_RECORDS + count):
        begin = time.perf_counter()
        producer.produce(topic, value=str(number).encode(), partition=0)
        producer.flush(_ANSWER_SECONDS)
        heard_at = relay.heard_at(number)
        if number >= _WARM_UP_RECORDS:
            times.append(heard_at - begin)
        time.sleep(max(0.0, 1 / per_second - (time.perf_counter() - begin)))
    return times


class _Relay:
    """Two threads: Kafka to Redis, and pub/sub back to whoever measures."""

    def __init__(self, bootstrap_servers: str, redis_url: str, name: str) -> None:
        self._name = name
        self._is_closing = threading.Event()
        self._heard: Queue[tuple[int, float]] = Queue()
        self._redis = Redis.from_url(redis_url)
        self._script = self._redis.register_script(_SCRIPT)
        self._channel: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._channel.subscribe(name)
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": name, "enable.auto.commit": False}
        )
        self._consumer.assign([TopicPartition(name, 0, 0)])
        self._threads = [threading.Thread(target=loop, name=name) for loop in (self._carry, self._listen)]
        for thread in self._threads:
            thread.start()

    def heard_at(self, number: int) -> float:
        """When the record with this number came back. Raises `ConnectionError` when it does not."""
        while True:
            try:
                heard, at = self._heard.get(timeout=_ANSWER_SECONDS)
            except Empty:
                raise ConnectionError("Kafka and Redis did not carry a record within 10 s") from None
            if heard == number:
                return at

    def close(self) -> None:
        self._is_closing.set()
        for thread in self._threads:
            thread.join()
        self._consumer.close()
        self._channel.close()
        self._redis.close()

    def _carry(self) -> None:
        while not self._is_closing.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._script(keys=[self._name], args=[message.value() or b"", self._name])

    def _listen(self) -> None:
        while not self._is_closing.is_set():
            message = self._channel.get_message(timeout=0.1)
            if message is not None:
                self._heard.put((int(message["data"]), time.perf_counter()))


@contextmanager
def _topic(bootstrap_servers: str, name: str) -> Iterator[None]:
    """One partition, one replica, gone afterwards."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 3})
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])[name].result(_ANSWER_SECONDS)
    try:
        yield
    finally:
        admin.delete_topics([name])[name].result(_ANSWER_SECONDS)
