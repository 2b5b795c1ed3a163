"""Hands the requests of a lost worker on: taken over in the ledger, their records copied to the resume topic.

For each request: find the original record by its coordinates, take the claim away from its dead holder (compare and
set), copy the record with the headers of a copy, acknowledged. In this order, so that a failure leaves a request
where the next round finds it; a copy that fails after the takeover is kept and sent again. Whatever is repeated is
answered by `claim`. Refuses to decide who is lost, and knows no HTTP.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from opentelemetry.trace import SpanKind

from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable, OutcomeTooLarge
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId, worker_of
from shared.contracts.topics import TopicNames
from shared.ledger.records import OwnedRequest
from shared.messaging.records import SourceRecord
from shared.openai.envelope import copy_headers, read_envelope
from shared.telemetry import spans
from shared.telemetry.metrics import REASSIGNED_REQUESTS, REASSIGNMENT_DURATION, REASSIGNMENT_FAILURES
from shared.telemetry.propagation import extract

logger = structlog.get_logger(__name__)

_MOST_UNSENT = 10_000


class Claims(Protocol):
    """The part of the ledger that gives up a lost worker's requests. Both raise LedgerUnavailable."""

    async def owned(self, incarnation: Incarnation) -> list[OwnedRequest]: ...

    async def orphan(self, request_id: RequestId, token: ClaimToken) -> bool: ...


class Copies(Protocol):
    """Publishes a record and returns once it is acknowledged. Raises BrokerUnavailable or OutcomeTooLarge."""

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> object: ...


class Unrunnable(Protocol):
    """Ends a request whose record is gone. False: it has moved on. Raises LedgerUnavailable, BrokerUnavailable."""

    async def answer(self, owned: OwnedRequest) -> bool: ...


Place = Callable[[str, str], int | None]
"""(pool, topic) to a partition that a living worker reads; None: let the key decide."""

FetchRecord = Callable[[str, int, int], Awaitable[SourceRecord | None]]
"""(topic, partition, offset) to its record; None when retention has taken it. Raises BrokerUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A record on its way to the resume topic."""

    request_id: RequestId
    pool: str
    topic: str
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


class Reassignment:
    def __init__(
        self,
        claims: Claims,
        copies: Copies,
        fetch_record: FetchRecord,
        *,
        unrunnable: Unrunnable,
        place: Place,
        names: TopicNames,
        cluster: str,
        concurrency: int,
    ) -> None:
        self._unrunnable = unrunnable
        self._place = place
        self._claims = claims
        self._copies = copies
        self._fetch_record = fetch_record
        self._names = names
        self._cluster = cluster
        self._slots = asyncio.Semaphore(concurrency)
        self._unsent: dict[RequestId, Copy] = {}

    @property
    def num_unsent(self) -> int:
        """Requests taken over whose copy is not acknowledged yet."""
        return len(self._unsent)

    async def resend(self) -> int:
        """Send again what could not be sent. Raises nothing; the count of those that went out."""
        return sum(await asyncio.gather(*(self._send(copy) for copy in list(self._unsent.values()))))

    async def take_over(self, incarnation: Incarnation) -> int:
        """Hand on everything this incarnation still owns; how many requests were. Raises LedgerUnavailable.

        Failures of single requests are counted and logged; they stay owned and the next round tries again.
        """
        started = time.perf_counter()
        owned = await self._claims.owned(incarnation)
        results = await asyncio.gather(*(self._hand_on(request) for request in owned))
        count = sum(result == "" for result in results)
        if owned:
            REASSIGNMENT_DURATION.observe(time.perf_counter() - started)
            failures = Counter(result for result in results if result)
            report = logger.warning if failures else logger.info
            report(
                "requests of a lost worker handed on",
                worker_id=worker_of(incarnation),
                incarnation=incarnation,
                owned=len(owned),
                handed_on=count,
                not_handed_on=dict(failures),
                took_ms=round((time.perf_counter() - started) * 1_000),
            )
        return count

    async def _hand_on(self, owned: OwnedRequest) -> str:
        """Empty when the copy is out, else the reason why not."""
        async with self._slots:
            try:
                copy, reason = await self._copy_of(owned)
                if copy is None:
                    return self._failed(owned, reason) if await self._unrunnable.answer(owned) else "moved-on"
                is_ours = await self._claims.orphan(owned.request_id, owned.token)
            except BrokerUnavailable as error:
                return self._failed(owned, "record-not-read", error)
            except LedgerUnavailable as error:
                return self._failed(owned, "ledger-unavailable", error)
            if not is_ours:
                # It ended, or somebody claimed it in the meantime: both are better than a copy.
                return "moved-on"
            return "" if await self._send(copy) else "copy-not-sent"

    async def _copy_of(self, owned: OwnedRequest) -> tuple[Copy | None, str]:
        """The copy, or None and why there can be none: Kafka no longer has the record, or another one in its place."""
        where = owned.coordinates
        record = await self._fetch_record(where.topic, where.partition, where.offset)
        if record is None:
            return None, "record-gone"
        envelope = read_envelope(record, names=self._names, pool=owned.pool, cluster=self._cluster)
        if envelope.request_id != owned.request_id:
            return None, "record-differs"
        headers = copy_headers(envelope, record.headers, attempt=owned.attempt)
        topic = self._names.resume(owned.pool)
        copy = Copy(request_id=owned.request_id, pool=owned.pool, topic=topic, value=record.value, headers=headers)
        return copy, ""

    async def _send(self, copy: Copy) -> bool:
        started_ns = time.time_ns()
        try:
            await self._copies.send(
                copy.topic,
                key=copy.request_id.encode(),
                value=copy.value,
                headers=copy.headers,
                partition=self._place(copy.pool, copy.topic),
            )
        except BrokerUnavailable as error:
            REASSIGNMENT_FAILURES.labels("copy-not-sent").inc()
            self._keep(copy, error)
            return False
        except OutcomeTooLarge as error:
            # With the headers of a copy it is over the limit: Kafka's redelivery of the original has to do.
            REASSIGNMENT_FAILURES.labels("copy-too-large").inc()
            logger.error("record too large to be copied", request_id=copy.request_id, error=str(error))
            self._unsent.pop(copy.request_id, None)
            return False
        self._unsent.pop(copy.request_id, None)
        REASSIGNED_REQUESTS.labels(copy.pool).inc()
        _record(copy, started_ns)
        return True

    def _keep(self, copy: Copy, error: Exception) -> None:
        """Bounded: beyond, Kafka's own redelivery after the session timeout has to do."""
        if copy.request_id not in self._unsent:
            logger.warning("copy not sent, will be tried again", request_id=copy.request_id, error=str(error))
        if len(self._unsent) < _MOST_UNSENT:
            self._unsent[copy.request_id] = copy

    def _failed(self, owned: OwnedRequest, reason: str, error: Exception | None = None) -> str:
        REASSIGNMENT_FAILURES.labels(reason).inc()
        logger.error(
            "request of a lost worker not handed on",
            request_id=owned.request_id,
            reason=reason,
            coordinates=f"{owned.coordinates.topic}/{owned.coordinates.partition}@{owned.coordinates.offset}",
            error=None if error is None else str(error),
        )
        return reason


def _record(copy: Copy, started_ns: int) -> None:
    attributes = {
        spans.REQUEST_ID: copy.request_id,
        spans.POOL: copy.pool,
        **spans.messaging_attributes("send", copy.topic),
    }
    spans.record_span(
        spans.REASSIGN,
        extract(copy.headers),
        started_ns,
        time.time_ns(),
        attributes,
        kind=SpanKind.PRODUCER,
    )
