"""Sends replies to topics that requests name. Bounded in time, and never in the way of results: its own client.

A client that is told to send to a topic that does not exist blocks for as long as its request timeout and asks about
the topic in every later refresh; so existence is asked first, over a connection of its own, and remembered briefly.
"""

import asyncio
import time
from types import TracebackType
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.contracts.errors import BrokerUnavailable, InvalidRequest
from shared.contracts.headers import REPLY_TO
from shared.contracts.topics import TopicNames
from shared.messaging.connection import connection_arguments
from shared.messaging.producer import HeaderList, RecordMetadata, RecordProducer
from shared.settings.kafka import KafkaSettings

_REMEMBER_PRESENT_SECONDS = 60.0
_REMEMBER_ABSENT_SECONDS = 5.0
_REMEMBERED_TOPICS = 10_000


class ReplyProducer:
    """`send` raises InvalidRequest for a topic that is not there or not allowed, within `timeout_seconds`."""

    def __init__(self, settings: KafkaSettings, *, client_id: str, timeout_seconds: float = 3.0) -> None:
        self._settings = settings
        self._names = settings.topic_names
        self._timeout_seconds = timeout_seconds
        self._producer = RecordProducer(settings, client_id=f"{client_id}-replies", timeout_seconds=timeout_seconds)
        self._admin = AIOKafkaAdminClient(
            client_id=f"{client_id}-reply-topics",
            request_timeout_ms=int(timeout_seconds * 1000),
            **connection_arguments(settings),
        )
        self._known: dict[str, tuple[bool, float]] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._producer.__aenter__()
        except (KafkaError, OSError) as error:
            await self._admin.close()
            raise BrokerUnavailable(f"no broker answers at {self._settings.bootstrap_servers}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._producer.__aexit__(kind, error, trace)
        await self._admin.close()

    async def send(
        self, topic: str, *, key: bytes | None, value: bytes | None, headers: HeaderList = ()
    ) -> RecordMetadata:
        if is_reserved(topic, self._names):
            raise InvalidRequest(f"{topic!r} is not a topic for replies", param=REPLY_TO)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._send(topic, key=key, value=value, headers=headers)
        except TimeoutError as error:
            raise BrokerUnavailable(f"no acknowledgement from reply topic {topic!r}") from error

    async def _send(self, topic: str, *, key: bytes | None, value: bytes | None, headers: HeaderList) -> RecordMetadata:
        if not await self._exists(topic):
            raise InvalidRequest(f"reply topic {topic!r} does not exist", param=REPLY_TO)
        return await self._producer.send(topic, key=key, value=value, headers=headers)

    async def _exists(self, topic: str) -> bool:
        now = time.monotonic()
        is_present, valid_until = self._known.get(topic, (False, 0.0))
        if now < valid_until:
            return is_present
        try:
            # All topics, filtered here: asking for one by name would create it where auto-creation is on.
            is_present = topic in await self._admin.list_topics()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot look for reply topic {topic!r}") from error
        if len(self._known) >= _REMEMBERED_TOPICS:
            self._known.clear()
        seconds = _REMEMBER_PRESENT_SECONDS if is_present else _REMEMBER_ABSENT_SECONDS
        self._known[topic] = (is_present, now + seconds)
        return is_present


def is_reserved(topic: str, names: TopicNames) -> bool:
    """Kafka's own topics and the platform's: a reply there would be taken for a request, a command, a result."""
    own = (names.results, names.cancellations, names.dead_letters, names.heartbeats, names.commands, names.events)
    return not topic or topic.startswith(("__", f"{names.prefix}inference.requests.")) or topic in own
