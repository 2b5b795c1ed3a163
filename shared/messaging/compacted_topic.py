"""Follows a compacted topic of one partition: what it holds, from the beginning, then every change as it comes.

Without a group: every process reads all of it. A reader that starts over sees the same keys again, newest last.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.admin import admin_client
from shared.messaging.connection import connection_arguments
from shared.messaging.records import SourceRecord, source_record
from shared.settings.kafka import KafkaSettings

_POLL_MS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicChange:
    """Some records, and whether all that was there when reading began has been seen."""

    records: tuple[SourceRecord, ...]
    is_complete: bool


async def follow_compacted(settings: KafkaSettings, topic: str, *, client_id: str) -> AsyncGenerator[TopicChange]:
    """Never ends by itself. The first changes lead up to one with `is_complete`. Raises BrokerUnavailable."""
    await _require(settings, topic)
    where = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_POLL_MS,
        **connection_arguments(settings),
    )
    try:
        await consumer.start()
        consumer.assign([where])
        end = (await consumer.end_offsets([where]))[where]
        await consumer.seek_to_beginning(where)
        is_complete = False
        while True:
            was_complete, is_complete = is_complete, await consumer.position(where) >= end
            if is_complete and not was_complete:
                yield TopicChange(records=(), is_complete=True)
            found = (await consumer.getmany(where, timeout_ms=_POLL_MS)).get(where, ())
            if found:
                yield TopicChange(records=tuple(source_record(record) for record in found), is_complete=is_complete)
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"cannot follow {topic} at {settings.bootstrap_servers}: {error!r}") from error
    finally:
        await consumer.stop()


async def _require(settings: KafkaSettings, topic: str) -> None:
    """A consumer waits silently for a topic that is not there; its reader should know."""
    async with admin_client(settings) as client:
        (found,) = await client.describe_topics([topic])
    if found["error_code"]:
        raise BrokerUnavailable(f"there is no topic {topic}: `penstock topics apply` creates it")
