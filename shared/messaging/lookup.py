"""Reads one record by its coordinates: for the supervisor, which knows where a request lies but not its bytes."""

import asyncio
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.connection import connection_arguments
from shared.messaging.records import SourceRecord, source_record
from shared.settings.kafka import KafkaSettings
from shared.telemetry.round_trips import kafka_round_trip

_POLL_MS = 200


class RecordLookup:
    """One consumer without a group, kept open: a supervisor that takes over a dead worker looks up many records."""

    def __init__(
        self, settings: KafkaSettings, *, client_id: str = "penstock-lookup", timeout_seconds: float = 5.0
    ) -> None:
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        self._client_id = client_id
        self._lock = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            client_id=self._client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_POLL_MS,
            request_timeout_ms=int(self._timeout_seconds * 1000),
            **connection_arguments(self._settings),
        )
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self._consumer.stop()
            raise BrokerUnavailable(f"no broker answers at {self._settings.bootstrap_servers}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._consumer is not None
        await self._consumer.stop()

    async def fetch(self, topic: str, partition: int, offset: int) -> SourceRecord | None:
        """None when the record is no longer there (or never was). Raises BrokerUnavailable."""
        with kafka_round_trip("lookup"):
            try:
                async with self._lock, asyncio.timeout(self._timeout_seconds):
                    return await self._fetch(topic, partition, offset)
            except (KafkaError, OSError, TimeoutError) as error:
                raise BrokerUnavailable(f"cannot read {topic}[{partition}]@{offset}: {error!r}") from error

    async def _fetch(self, topic: str, partition: int, offset: int) -> SourceRecord | None:
        assert self._consumer is not None
        consumer, where = self._consumer, TopicPartition(topic, partition)
        consumer.assign([where])
        begin = (await consumer.beginning_offsets([where]))[where]
        end = (await consumer.end_offsets([where]))[where]
        if not begin <= offset < end:
            return None
        consumer.seek(where, offset)
        while True:
            batches = await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=1)
            for record in batches.get(where, ()):
                return source_record(record) if record.offset == offset else None


async def fetch_record(settings: KafkaSettings, topic: str, partition: int, offset: int) -> SourceRecord | None:
    async with RecordLookup(settings) as lookup:
        return await lookup.fetch(topic, partition, offset)
