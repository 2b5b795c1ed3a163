"""Kafka as a stranger speaks it: `confluent-kafka`, with no code of the platform on the client's side.

The demo and the platform benchmark use it, so that what they show is what any producer gets. Calls block; callers on
an event loop use threads.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import stamina
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

SOURCE_TOPIC = "penstock-source-topic"
SOURCE_PARTITION = "penstock-source-partition"
SOURCE_OFFSET = "penstock-source-offset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where an acknowledged record lies: what a producer without ids joins its result by."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    value: bytes
    headers: dict[str, bytes | None]

    @property
    def receipt(self) -> Receipt:
        return Receipt(
            topic=(self.headers.get(SOURCE_TOPIC) or b"").decode(),
            partition=int(self.headers.get(SOURCE_PARTITION) or -1),
            offset=int(self.headers.get(SOURCE_OFFSET) or -1),
        )

    @property
    def request_id(self) -> str:
        return (self.headers.get("ce_id") or b"").decode()


class ResultReader:
    """Reads the results topic from its present end on, all partitions, without a group's coordination."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"stranger-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
            }
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign(
            [TopicPartition(topic, partition, self._end(topic, partition)) for partition in partitions]
        )

    @stamina.retry(on=KafkaException, timeout=10.0)  # a topic just created has no leader for a moment
    def _end(self, topic: str, partition: int) -> int:
        _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        return int(high)

    def results(self, *, timeout_seconds: float) -> Iterator[Result]:
        """Yield results as they come, until `timeout_seconds` have passed since the call."""
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            # `consume` waits until it has all 500: the first one by itself, then what else is there already.
            first = self._consumer.poll(min(left, 0.05))
            if first is None:
                continue
            for message in (first, *self._consumer.consume(499, timeout=0.0)):
                if message.error() is None:
                    yield Result(value=message.value() or b"", headers=_headers(message))

    def close(self) -> None:
        self._consumer.close()


def _headers(message: Message) -> dict[str, bytes | None]:
    pairs = message.headers() or []
    return {
        name: value.encode() if isinstance(value, str) else value
        for name, value in (pairs.items() if isinstance(pairs, dict) else pairs)
    }


class Poster:
    """Posts plain values, no key, no headers. One long-lived producer: connecting anew costs more than a record."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 2, "acks": "all"})

    def post(self, topic: str, values: Sequence[bytes]) -> list[Receipt]:
        """Returns, when all are acknowledged, where each came to lie. Raises `ConnectionError`."""
        receipts: dict[int, Receipt] = {}
        failures: list[str] = []

        def acknowledged(index: int, error: object, message: Message) -> None:
            if error is not None:
                failures.append(str(error))
                return
            receipts[index] = Receipt(
                topic=str(message.topic()), partition=int(message.partition() or 0), offset=int(message.offset() or 0)
            )

        for index, value in enumerate(values):
            self._produce(topic, value, functools.partial(acknowledged, index))
            self._producer.poll(0)
        self._producer.flush(30)
        if failures or len(receipts) < len(values):
            raise ConnectionError(failures[0] if failures else "Kafka did not acknowledge every record within 30 s")
        return [receipts[index] for index in range(len(values))]

    def _produce(self, topic: str, value: bytes, acknowledged: Callable[[object, Message], None]) -> None:
        while True:
            try:
                self._producer.produce(topic, value=value, on_delivery=acknowledged)
            except BufferError:  # the client's own queue is full: let it send
                self._producer.poll(0.1)
            else:
                return


def post(bootstrap_servers: str, topic: str, values: Sequence[bytes]) -> list[Receipt]:
    """Post once; who posts again and again keeps a `Poster`."""
    return Poster(bootstrap_servers).post(topic, values)
