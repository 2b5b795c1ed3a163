"""Reads a topic from its beginning to its present end, without a group, and forgets its oldest part. For operators.

Knows offsets and bytes; nothing is committed, so that looking changes nothing.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.admin import admin_client
from shared.messaging.connection import connection_arguments
from shared.messaging.records import SourceRecord, source_record
from shared.settings.kafka import KafkaSettings

_POLL_MS = 500


@asynccontextmanager
async def _consumer(settings: KafkaSettings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False, auto_offset_reset="earliest", **connection_arguments(settings)
    )
    try:
        await consumer.start()
        yield consumer
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"cannot read from {settings.bootstrap_servers}: {error!r}") from error
    finally:
        await consumer.stop()


async def _partitions(settings: KafkaSettings, topic: str) -> list[TopicPartition]:
    async with admin_client(settings) as client:
        (found,) = await client.describe_topics([topic])
    if found["error_code"]:
        raise BrokerUnavailable(f"there is no topic {topic}")
    return [TopicPartition(topic, number) for number in sorted(part["partition"] for part in found["partitions"])]


async def read_topic(
    settings: KafkaSettings, topic: str, *, since_ms: int | None = None
) -> AsyncIterator[SourceRecord]:
    """Everything that is in the topic now, from an instant on, partition by partition. Raises BrokerUnavailable."""
    async with _consumer(settings) as consumer:
        for partition in await _partitions(settings, topic):
            consumer.assign([partition])
            end = (await consumer.end_offsets([partition]))[partition]
            if since_ms is None:
                await consumer.seek_to_beginning(partition)
            else:
                first = (await consumer.offsets_for_times({partition: since_ms}))[partition]
                consumer.seek(partition, end if first is None else first.offset)
            while await consumer.position(partition) < end:
                for record in (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, ()):
                    if record.offset < end:
                        yield source_record(record)


async def is_empty(settings: KafkaSettings, topic: str) -> bool:
    """Nothing was ever written to it (what retention took counts as written). Raises BrokerUnavailable."""
    async with _consumer(settings) as consumer:
        ends = await consumer.end_offsets(await _partitions(settings, topic))
    return not any(ends.values())


async def forget_before(settings: KafkaSettings, offsets: Mapping[tuple[str, int], int]) -> None:
    """Delete, for good, every record below these offsets. Raises BrokerUnavailable."""
    wanted = {TopicPartition(*where): RecordsToDelete(before_offset=offset) for where, offset in offsets.items()}
    async with admin_client(settings) as client:
        try:
            await client.delete_records(wanted)
        except KafkaError as error:
            raise BrokerUnavailable(f"records were not deleted: {error!r}") from error
