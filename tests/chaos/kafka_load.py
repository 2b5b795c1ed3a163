"""Records posted by a stranger with librdkafka; what it has no acknowledgement of was never accepted."""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

from tests.chaos.asks import Ask, Way

_SOURCE = ("penstock-source-topic", "penstock-source-partition", "penstock-source-offset")

_REQUEST_TOPICS = ("interactive", "bulk", "resume", "retry.1s", "retry.4s", "retry.16s")


class KafkaLoad:
    def __init__(self, bootstrap_servers: str, *, pool: str = "default") -> None:
        self._pool = pool
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "linger.ms": 2,
                "acks": "all",
                "log_level": 0,
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 500,
            }
        )
        self._listener = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "chaos-listener",
                "log_level": 0,
                "enable.auto.commit": False,
            }
        )
        self._answered: set[str | tuple[str, ...]] = set()

    def post(self, ask: Ask) -> None:
        headers = [] if ask.way is Way.KAFKA_NAMELESS else [("ce_id", ask.name.encode())]
        if ask.ordered_key is not None:
            headers.append(("penstock-ordered", b"true"))
        for _ in range(2 if ask.way is Way.KAFKA_TWICE else 1):
            self._producer.produce(
                f"inference.requests.{self._pool}.{ask.lane}",
                value=json.dumps(ask.body).encode(),
                headers=headers,
                key=None if ask.ordered_key is None else ask.ordered_key.encode(),
                on_delivery=partial(_acknowledged, ask),
            )

    def cancel(self, request_id: str) -> None:
        """By a record, as any consumer of Kafka may."""
        body = {"request_id": request_id, "reason": "chaos"}
        self._producer.produce("inference.cancellations", key=request_id.encode(), value=json.dumps(body).encode())

    async def poll(self) -> None:
        """Until cancelled: hear the acknowledgements."""
        while True:
            self._producer.poll(0)
            await asyncio.sleep(0.05)

    async def hear_results(self, asks: Sequence[Ask]) -> None:
        """Until cancelled: note when the records' results came, for the count of what is in flight. No judgement."""
        topic = "inference.results"
        numbers = self._listener.list_topics(topic, timeout=20).topics[topic].partitions
        self._listener.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        while True:
            for message in self._listener.consume(500, timeout=0.0):
                if message.error() is None:
                    headers = dict(message.headers() or ())
                    subject = (headers.get("ce_subject") or b"").decode()
                    source = tuple((headers.get(name) or b"").decode() for name in _SOURCE)
                    self._answered |= {subject, source}
            for ask in asks:
                if ask.is_open and ask.way not in (Way.STREAM, Way.AWAIT) and self._is_answered(ask):
                    ask.ended_at = time.monotonic()
            await asyncio.sleep(0.2)

    def _is_answered(self, ask: Ask) -> bool:
        sources = [(topic, str(partition), str(offset)) for topic, partition, offset in ask.receipts]
        return ask.name in self._answered or any(source in self._answered for source in sources)

    async def flush(self) -> None:
        await asyncio.to_thread(self._producer.flush, 30)


def _acknowledged(ask: Ask, error: object, message: Message) -> None:
    if error is None:
        ask.receipts.append((str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)))
        ask.accepted_at = ask.accepted_at or time.monotonic()


class OffsetWatch:
    """The workers' committed offsets, as anybody may read them: do they ever go back, and what lags at the end."""

    def __init__(self, bootstrap_servers: str, *, pool: str = "default") -> None:
        self._topics = [f"inference.requests.{pool}.{name}" for name in _REQUEST_TOPICS]
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"penstock-workers-{pool}",
                "log_level": 0,
                "enable.auto.commit": False,
            }
        )
        self._highest: dict[tuple[str, int], int] = {}
        self.went_back: list[str] = []

    def look(self) -> int | None:
        """How many records are not committed; None when Kafka does not say. Blocks for some seconds at most."""
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in self._topics
                for number in self._consumer.list_topics(topic, timeout=3).topics[topic].partitions
            ]
            committed = self._consumer.committed(partitions, timeout=3)
            return sum(self._lag_of(partition) for partition in committed)
        except KafkaException:
            return None

    def _lag_of(self, partition: TopicPartition) -> int:
        where, offset = (partition.topic, partition.partition), max(0, partition.offset)
        if offset < self._highest.get(where, 0):
            self.went_back.append(f"{where}: {self._highest[where]} -> {offset}")
        self._highest[where] = offset
        _, high = self._consumer.get_watermark_offsets(partition, timeout=3)
        return int(high) - offset

    async def watch(self, seconds: float = 1.0) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(seconds)

    def close(self) -> None:
        self._consumer.close()
