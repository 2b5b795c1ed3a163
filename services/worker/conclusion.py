"""The end of every record: seal, publish, finish, done; exactly in this order (DELIVERY lines 6 to 8).

What is sealed is repeated until Kafka has acknowledged it and the ledger knows: there is no giving up here, only
waiting. A crash in between leaves the offset unfinished, and whoever gets the record next claims `sealed` and
repeats the same bytes. Refuses to know how an outcome came about.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from opentelemetry.trace import SpanKind

from services.worker.work import RecordDelivery, Work
from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable, OutcomeTooLarge, PlatformError
from shared.contracts.events import InferenceOutcome, Outcome, PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, RequestId, new_claim_token
from shared.contracts.topics import TopicNames
from shared.ledger.records import ClaimRequest, Fenced, SealAnswer
from shared.messaging.records import SourceRecord
from shared.openai.sealing import seal_outcome
from shared.resilience.clock import Clock
from shared.telemetry import spans
from shared.telemetry.metrics import DEAD_LETTERS
from shared.telemetry.propagation import inject

_log = structlog.get_logger(__name__)
_Answer = TypeVar("_Answer")

RETRY_SECONDS = 0.5


class SealingLedger(Protocol):
    """Raises `LedgerUnavailable`; nothing else."""

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer: ...
    async def finish(self, request_id: RequestId) -> bool: ...
    async def restore(self, published: PublishedOutcome) -> bool: ...
    async def reclaim(
        self, request: ClaimRequest, token: ClaimToken, *, sealed: SealedOutcome | None = None
    ) -> bool: ...


class Producer(Protocol):
    """Returns once the brokers have acknowledged. Raises `BrokerUnavailable`."""

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> Any: ...


class DeadLetters(Protocol):
    """Publishes a record to the dead letters, original bytes kept. Raises `BrokerUnavailable`."""

    async def __call__(self, record: SourceRecord, error: PlatformError) -> None: ...


class ConclusionListener(Protocol):
    """Told once per record that was answered by this worker. Must not block or raise."""

    def concluded(self, work: Work, outcome: SealedOutcome) -> None: ...
    def failed(self, code: str) -> None:
        """An error was sealed for a caller."""
        ...


class Conclusions:
    """Used by intake and emitter; each call is one record's, any number of them run at once."""

    def __init__(
        self,
        *,
        ledger: SealingLedger,
        results: Producer,
        replies: Producer,
        dead_letters: DeadLetters,
        names: TopicNames,
        pool: str,
        max_result_bytes: int,
        clock: Clock,
        listener: ConclusionListener,
    ) -> None:
        self._ledger = ledger
        self._results = results
        self._replies = replies
        self._dead_letters = dead_letters
        self._names = names
        self._pool = pool
        self._max_result_bytes = max_result_bytes
        self._clock = clock
        self._listener = listener
        self._on_their_way: dict[RequestId, tuple[Work, SealedOutcome]] = {}

    async def conclude(
        self,
        work: Work,
        outcome: InferenceOutcome,
        *,
        sealed_at_ms: int | None = None,
        dead_letter: PlatformError | None = None,
    ) -> bool:
        """Seal this outcome and see it through. False: fenced, somebody else's word counts; nothing was said."""
        assert work.token is not None
        token = work.token
        sealed = seal_outcome(
            work.envelope,
            outcome,
            sealed_at_ms=self._clock.now_ms() if sealed_at_ms is None else sealed_at_ms,
            max_bytes=self._max_result_bytes,
            trace_headers=inject(work.context) or work.envelope.trace_headers,
        )
        if dead_letter is not None:
            await self._publish_dead_letter(work, dead_letter)
        answer = await self._insist(lambda: self._ledger.seal(work.request_id, token, sealed))
        if isinstance(answer, Fenced):
            return False
        if outcome.error is not None and outcome.outcome is not Outcome.CANCELLED:
            self._listener.failed(outcome.error.code)
        await self.repeat(work, answer.outcome)
        return True

    async def repeat(self, work: Work, sealed: SealedOutcome) -> None:
        """Publish what was sealed, by us or before us; then finish; then the offset is done."""
        self._on_their_way[work.request_id] = (work, sealed)
        try:
            await self._publish(work, sealed)
            if not await self._insist(lambda: self._ledger.finish(work.request_id)):
                envelope = work.envelope
                published = PublishedOutcome(
                    outcome=sealed, tenant=envelope.tenant, pool=envelope.pool, coordinates=envelope.coordinates
                )
                await self._insist(lambda: self._ledger.restore(published))
        finally:
            self._on_their_way.pop(work.request_id, None)
        self._listener.concluded(work, sealed)
        work.delivery.done()

    async def put_back(self) -> None:
        """Redis lost its data: what is being published stays sealed. Raises `LedgerUnavailable`."""
        for work, sealed in list(self._on_their_way.values()):
            if work.claimed is not None:
                await self._ledger.reclaim(work.claimed, work.token or new_claim_token(), sealed=sealed)

    async def discard(self, delivery: RecordDelivery, error: PlatformError) -> None:
        """A record nobody can work on: dead letter, acknowledged, then the offset is done."""
        await self._insist(lambda: self._dead_letters(delivery.record, error))
        DEAD_LETTERS.labels(pool=self._pool, code=error.code).inc()
        delivery.done()

    async def _publish_dead_letter(self, work: Work, error: PlatformError) -> None:
        await self._insist(lambda: self._dead_letters(work.delivery.record, error))
        DEAD_LETTERS.labels(pool=self._pool, code=error.code).inc()

    async def _publish(self, work: Work, sealed: SealedOutcome) -> None:
        started_ns = time.time_ns()
        key = sealed.request_id.encode()
        try:
            await self._insist(
                lambda: self._results.send(self._names.results, key=key, value=sealed.value, headers=sealed.headers)
            )
        except OutcomeTooLarge as error:
            # The topic's limit is below ours: what is sealed cannot be changed, so it must not vanish either.
            _log.error("result_refused", request_id=work.request_id, error=error.message)
            await self._publish_dead_letter(work, error)
        if work.span.is_recording():
            attributes = {
                spans.REQUEST_ID: work.request_id,
                spans.OUTCOME: sealed.outcome.value,
                **spans.messaging_attributes("send", self._names.results),
            }
            spans.record_span(
                spans.PUBLISH_RESULT,
                work.context,
                started_ns,
                time.time_ns(),
                attributes,
                kind=SpanKind.PRODUCER,
            )
        if sealed.reply_to is not None:
            await self._reply(sealed, sealed.reply_to)

    async def _reply(self, sealed: SealedOutcome, topic: str) -> None:
        """Once, within the producer's bound: the asker's topic is the asker's business, the result is out."""
        try:
            await self._replies.send(topic, key=sealed.request_id.encode(), value=sealed.value, headers=sealed.headers)
        except PlatformError as error:
            _log.warning("reply_not_sent", request_id=sealed.request_id, topic=topic, error=error.message)

    async def _insist(self, action: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Until it works. Bounded by the worker's own life and by what intake takes while this waits."""
        while True:
            try:
                return await action()
            except (LedgerUnavailable, BrokerUnavailable) as error:
                _log.warning("conclusion_waits", error=error.message, code=error.code)
                await self._clock.sleep(RETRY_SECONDS)
