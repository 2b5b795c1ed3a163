"""The control topics over FastStream: heartbeats, commands, events, cancellations. Requests never pass here.

Heartbeats, commands and events are heard by everybody, from now on: consumers without a group. Cancellations have one
durable group, so that what is posted while no worker is up still counts. FastStream's own parser dies on a null or
non-UTF-8 header value and loses the message silently; ours does not. A record that cannot be decoded, or whose writer
is a newer major release, is logged and passed over: one bad neighbour must not silence the fleet.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import structlog
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import KafkaMessage

from shared.contracts import fleet_codec, request_codec
from shared.contracts.errors import BrokerUnavailable, PlatformError, PoisonMessage, UnsupportedVersion
from shared.contracts.fleet import FleetCommand, FleetEvent, Heartbeat
from shared.contracts.headers import CONTENT_TYPE, SCHEMA_VERSION
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Cancellation
from shared.contracts.schema_version import OURS, require_readable
from shared.messaging.producer import RecordProducer
from shared.messaging.security import security_of
from shared.settings.kafka import KafkaSettings

_LOG = structlog.get_logger(__name__)
CONTROL_HEADERS = ((CONTENT_TYPE, b"application/protobuf"), (SCHEMA_VERSION, str(OURS).encode()))
_RETRY_SECONDS = 0.5
_FETCH_MAX_WAIT_MS = 200

Value = TypeVar("Value")
Listener = Callable[[Value], Awaitable[None]]


class ControlBroker:
    """Register listeners, then enter the context. Publishing works inside the context only."""

    def __init__(self, settings: KafkaSettings, *, client_id: str) -> None:
        self._names = settings.topic_names
        self._settings = settings
        self._client_id = client_id
        self._broker = _faststream_broker(settings, client_id)
        self._producer = RecordProducer(settings, client_id=f"{client_id}-control")
        self._exit = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._exit.enter_async_context(self._producer)
            if self._broker.subscribers:
                self._exit.push_async_callback(self._broker.stop)
                await self._broker.start()
        except (KafkaError, OSError) as error:
            await self._exit.aclose()
            raise BrokerUnavailable(f"no broker answers at {self._settings.bootstrap_servers}") from error
        except PlatformError:
            await self._exit.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    # ------------------------------------------------------------------ listening

    def on_heartbeat(self, listener: Listener[Heartbeat]) -> None:
        self._hear_from_now(self._names.heartbeats, fleet_codec.decode_heartbeat, listener)

    def on_command(self, listener: Listener[FleetCommand]) -> None:
        self._hear_from_now(self._names.commands, fleet_codec.decode_fleet_command, listener)

    def on_event(self, listener: Listener[FleetEvent]) -> None:
        self._hear_from_now(self._names.events, fleet_codec.decode_fleet_event, listener)

    def on_cancellation(self, listener: Listener[Cancellation]) -> None:
        """At least once: a listener that raises a PlatformError gets the same cancellation again."""
        subscriber = self._broker.subscriber(
            self._names.cancellations,
            group_id=self._names.cancellation_group,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            session_timeout_ms=self._settings.session_timeout_ms,
            heartbeat_interval_ms=max(300, self._settings.session_timeout_ms // 10),
        )
        subscriber(_call(request_codec.decode_cancellation, listener, self._names.cancellations))

    def _hear_from_now(self, topic: str, decode: Callable[[bytes], Value], listener: Listener[Value]) -> None:
        subscriber = self._broker.subscriber(
            topic,
            auto_offset_reset="latest",
            ack_policy=AckPolicy.ACK_FIRST,  # without a group there is nothing to acknowledge
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        )
        subscriber(_call(decode, listener, topic))

    # ------------------------------------------------------------------ telling

    async def publish_heartbeat(self, heartbeat: Heartbeat) -> None:
        await self._publish(self._names.heartbeats, heartbeat.worker_id, fleet_codec.encode_heartbeat(heartbeat))

    async def publish_command(self, command: FleetCommand) -> None:
        await self._publish(self._names.commands, command.worker_id, fleet_codec.encode_fleet_command(command))

    async def publish_event(self, event: FleetEvent) -> None:
        await self._publish(self._names.events, event.worker_id, fleet_codec.encode_fleet_event(event))

    async def publish_cancellation(self, request_id: RequestId, *, tenant: str | None, reason: str) -> None:
        value = request_codec.encode_cancellation(request_id, tenant, reason)
        await self._publish(self._names.cancellations, request_id, value)

    async def _publish(self, topic: str, key: str, value: bytes) -> None:
        await self._producer.send(topic, key=key.encode(), value=value, headers=CONTROL_HEADERS)


def control_broker(settings: KafkaSettings, *, client_id: str) -> ControlBroker:
    return ControlBroker(settings, client_id=client_id)


def _faststream_broker(settings: KafkaSettings, client_id: str) -> KafkaBroker:
    return KafkaBroker(
        settings.bootstrap_servers.split(","),
        client_id=client_id,
        consumer_only=True,
        allow_auto_create_topics=False,
        parser=_parse,
        decoder=_raw_body,
        apply_types=False,
        security=security_of(settings),
        logger=logging.getLogger("faststream"),
        log_level=logging.DEBUG,
    )


class _Body(NamedTuple):
    version: bytes | None
    value: bytes


def _call(decode: Callable[[bytes], Value], listener: Listener[Value], topic: str) -> Callable[[Any], Awaitable[None]]:
    async def handle(body: _Body) -> None:
        try:
            require_readable(body.version, "the record")
            value = decode(body.value)
        except (PoisonMessage, UnsupportedVersion) as error:
            _LOG.warning("control record ignored", topic=topic, error=error.message)
            return
        try:
            await listener(value)
        except PlatformError as error:
            _LOG.warning("control record not handled", topic=topic, error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)
            raise

    return handle


async def _parse(message: Any, original: Callable[[Any], Awaitable[KafkaMessage]]) -> KafkaMessage:
    """FastStream's parser on a record whose header values are all UTF-8."""
    headers = tuple((name, (value or b"").decode("utf-8", "replace").encode()) for name, value in message.headers)
    return await original(replace(message, headers=headers))


async def _raw_body(message: KafkaMessage) -> _Body:
    version = message.headers.get(SCHEMA_VERSION)
    return _Body(None if version is None else str(version).encode(), bytes(message.body or b""))
