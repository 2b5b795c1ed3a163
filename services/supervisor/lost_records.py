"""The end of a request that cannot be run again: its worker is lost, and Kafka no longer has its record.

Sealed in the dead holder's name (its token is compared), published, finished: in the order of every outcome (DELIVERY
lines 6 and 7), so that a crash in between leaves it owned, and the next round repeats the same bytes. What a verdict
had decided is sealed as that. Refuses to look for the record.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from shared.contracts.errors import DeadlineExceeded, InvariantViolated, PlatformError, RequestCancelled, WorkerLost
from shared.contracts.events import InferenceOutcome, Outcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.contracts.requests import RequestEnvelope, RequestKind, WireFormat
from shared.contracts.topics import TopicNames
from shared.ledger.records import Fenced, OwnedRequest, SealAnswer
from shared.openai.outcomes import outcome_error
from shared.openai.sealing import seal_outcome

logger = structlog.get_logger(__name__)

_MAX_BYTES = 65_536
"""Far above what such an outcome needs, below any topic's limit."""

_ENDINGS: tuple[tuple[Outcome, PlatformError], ...] = (
    (
        Outcome.FAILED,
        WorkerLost("its worker was lost and Kafka no longer has its record (retention), so nobody can run it again"),
    ),
    (Outcome.CANCELLED, RequestCancelled("the request was cancelled")),
    (Outcome.EXPIRED, DeadlineExceeded("the request's deadline passed before it was complete")),
)


class Seals(Protocol):
    """Both raise LedgerUnavailable; `seal` InvariantViolated when a verdict says otherwise."""

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer: ...
    async def finish(self, request_id: RequestId) -> bool: ...


class Results(Protocol):
    """Returns once acknowledged. Raises BrokerUnavailable."""

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> object: ...


class LostRecords:
    def __init__(self, seals: Seals, results: Results, *, names: TopicNames, now_ms: Callable[[], int]) -> None:
        self._seals = seals
        self._results = results
        self._names = names
        self._now_ms = now_ms

    async def answer(self, owned: OwnedRequest) -> bool:
        """False: it has moved on. Raises LedgerUnavailable and BrokerUnavailable; it is owned still then."""
        sealed = await self._seal(owned)
        if sealed is None:
            return False
        key = owned.request_id.encode()
        await self._results.send(self._names.results, key=key, value=sealed.value, headers=sealed.headers)
        await self._seals.finish(owned.request_id)
        logger.error("request failed, its record is gone", request_id=owned.request_id, outcome=sealed.outcome.value)
        return True

    async def _seal(self, owned: OwnedRequest) -> SealedOutcome | None:
        for outcome, error in _ENDINGS:
            try:
                answer = await self._seals.seal(owned.request_id, owned.token, self._outcome(owned, outcome, error))
            except InvariantViolated:
                continue  # the verdict was another one
            return None if isinstance(answer, Fenced) else answer.outcome
        raise InvariantViolated(f"no outcome fits the verdict of {owned.request_id}")

    def _outcome(self, owned: OwnedRequest, outcome: Outcome, error: PlatformError) -> SealedOutcome:
        """As much as the ledger knows: how the caller wanted its answer was in the record."""
        envelope = RequestEnvelope(
            request_id=owned.request_id,
            pool=owned.pool,
            lane=owned.lane,
            tenant=owned.tenant,
            wire_format=WireFormat.JSON,
            fingerprint="",
            coordinates=owned.coordinates,
            deadline_ms=owned.deadline_ms,
            trace_headers=owned.trace_headers,
        )
        ending = InferenceOutcome(
            request_id=owned.request_id,
            outcome=outcome,
            kind=RequestKind.CHAT,
            model="",
            created_seconds=owned.coordinates.timestamp_ms // 1_000,
            error=outcome_error(error),
        )
        return seal_outcome(envelope, ending, sealed_at_ms=self._now_ms(), max_bytes=_MAX_BYTES)
