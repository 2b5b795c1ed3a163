"""Sends records and waits for their acknowledgement (`acks=all`, idempotent). Knows bytes, topics and headers only.

One record that the broker rejects makes every later idempotent send of that producer to the partition fail with
OutOfOrderSequenceNumber, and takes its batch neighbours with it. So after any failure the producer is replaced, and
each suspect is sent once more, alone, by a producer of its own: the innocent get through.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
)

from shared.contracts.errors import BrokerUnavailable, OutcomeTooLarge
from shared.messaging.connection import connection_arguments
from shared.resilience.circuit_breaker import CircuitBreaker
from shared.settings.kafka import KafkaSettings
from shared.telemetry.round_trips import kafka_round_trip

_LOG = structlog.get_logger(__name__)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_CLOSE_SECONDS = 5.0

HeaderList = Iterable[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMetadata:
    """Where a record lies now."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class RecordProducer:
    """`async with RecordProducer(settings, client_id=...) as producer: await producer.send(...)`."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        client_id: str,
        linger_ms: int = 1,
        timeout_seconds: float = 5.0,
        max_record_bytes: int | None = None,
        breaker: CircuitBreaker | None = None,
        may_connect_later: bool = False,
    ) -> None:
        """`max_record_bytes` is our own limit; keep it below the topics', which count a batch's frame too.

        `may_connect_later`: entering succeeds without a broker, too; each send tries to reach one then.
        """
        self._may_connect_later = may_connect_later
        self._breaker = breaker
        self._settings = settings
        self._client_id = client_id
        self._linger_ms = linger_ms
        self._timeout_seconds = timeout_seconds
        self._max_record_bytes = max_record_bytes or settings.max_message_bytes - 1024
        self._producer: AIOKafkaProducer | None = None
        self._replace_lock = asyncio.Lock()
        self._suspect_lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        try:
            await self._current()
        except BrokerUnavailable as error:
            if not self._may_connect_later:
                raise
            _LOG.warning("kafka producer not connected yet", client_id=self._client_id, error=error.message)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        producer, self._producer = self._producer, None
        if producer is not None:
            await _close(producer)
        await asyncio.gather(*self._closing)

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: HeaderList = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Returns once every in-sync replica has it.

        Raises OutcomeTooLarge for a record beyond the limit and BrokerUnavailable for everything else; after the latter
        the record may or may not be in the topic (it is not when an open breaker refused).
        """
        with kafka_round_trip("produce"):
            return await self._guarded(topic, key, value, headers, partition, timestamp_ms)

    async def _guarded(self, topic: str, *record: Any) -> RecordMetadata:
        if self._breaker is None:
            return await self._deliver(topic, *record)
        attempt = self._breaker.attempt(failure=BrokerUnavailable)
        if attempt is None:
            raise BrokerUnavailable("Kafka did not acknowledge records lately; it is left alone for a moment")
        with attempt:
            return await self._deliver(topic, *record)

    async def _deliver(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: HeaderList,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> RecordMetadata:
        arguments: dict[str, Any] = {
            "topic": topic,
            "key": key,
            # A tombstone without a key is a legal record, which aiokafka refuses; an empty value is its nearest kin.
            "value": b"" if key is None and value is None else value,
            "headers": [(name if name.isascii() else _encodable(name), value) for name, value in headers],
            "partition": partition,
            "timestamp_ms": timestamp_ms,
        }
        producer = await self._current()
        try:
            return await self._send(producer, arguments)
        except OutcomeTooLarge:
            raise
        except KafkaError as error:
            await self._replace(producer)
            if not _is_rejection(error):
                raise BrokerUnavailable(
                    f"Kafka did not acknowledge a record for {topic} ({type(error).__name__})"
                ) from error
        return await self._send_alone(arguments)

    async def _send(self, producer: AIOKafkaProducer, arguments: dict[str, Any]) -> RecordMetadata:
        try:
            # An idempotent aiokafka batch retries for ever, and a send that waits for metadata when its client is
            # closed (by a neighbour's failure) is never woken up.
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    acknowledged = await producer.send(**arguments)
                except _TOO_LARGE as error:  # by our own limit: nothing was sent
                    raise OutcomeTooLarge(f"a record for {arguments['topic']} is too large: {error}") from error
                except AssertionError as error:
                    no_partition = f"{arguments['topic']} has no partition {arguments['partition']}"
                    raise BrokerUnavailable(no_partition) from error
                metadata = await asyncio.shield(acknowledged)
        except TimeoutError as error:
            raise KafkaTimeoutError(f"no acknowledgement in {self._timeout_seconds:.0f} s") from error
        return RecordMetadata(
            topic=metadata.topic,
            partition=metadata.partition,
            offset=metadata.offset,
            timestamp_ms=metadata.timestamp,
        )

    async def _send_alone(self, arguments: dict[str, Any]) -> RecordMetadata:
        """A second chance for a record whose batch was rejected."""
        async with self._suspect_lock:
            producer = await self._start()
            try:
                return await self._send(producer, arguments)
            except _TOO_LARGE as error:
                raise OutcomeTooLarge(f"{arguments['topic']} refused a record as too large") from error
            except KafkaError as error:
                topic = arguments["topic"]
                raise BrokerUnavailable(
                    f"Kafka did not acknowledge a record for {topic} ({type(error).__name__})"
                ) from error
            finally:
                await _close(producer)

    # ------------------------------------------------------------------ the client inside

    async def _current(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        async with self._replace_lock:
            if self._is_closed:
                raise BrokerUnavailable("the producer is closed")
            if self._producer is None:
                self._producer = await self._start()
            return self._producer

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=self._linger_ms,
            request_timeout_ms=int(self._timeout_seconds * 1000),
            max_request_size=self._max_record_bytes,
            **connection_arguments(self._settings),
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await producer.start()
        except (KafkaError, OSError) as error:
            await _close(producer)
            raise BrokerUnavailable(f"no broker answers at {self._settings.bootstrap_servers}") from error
        return producer

    async def _replace(self, failed: AIOKafkaProducer) -> None:
        """The next send starts a new client; the failed one closes in the background, with its neighbours' failures."""
        if self._producer is failed:
            self._producer = None
            _LOG.warning("kafka producer replaced after a failed record", client_id=self._client_id)
            closing = asyncio.get_running_loop().create_task(_close(failed))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _encodable(name: str) -> str:
    """aiokafka writes UTF-8 names only; bytes that are none (read as surrogates) become visible escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_rejection(error: KafkaError) -> bool:
    """The broker said no, so that nothing was written; as opposed to silence, which leaves it open."""
    return isinstance(error, (*_TOO_LARGE, InvalidTimestampError, OutOfOrderSequenceNumber))


async def _close(producer: AIOKafkaProducer) -> None:
    """Politely first; a producer that cannot deliver what it holds waits for ever, so it is then cut off."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await producer.stop()
    except (KafkaError, TimeoutError, OSError):
        with contextlib.suppress(KafkaError, OSError, asyncio.CancelledError):
            await producer._sender.close()
        await producer.client.close()
