"""A worker without an engine: claims what was published and says what a test tells it to. Real or in-memory ledger.

It follows the delivery order (claim, append, seal, finish); what it seals is rendered by the real code.
"""

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

from shared.contracts.errors import PlatformError
from shared.contracts.events import (
    ChoiceResult,
    Chunk,
    FinishReason,
    InferenceOutcome,
    Outcome,
    SealedOutcome,
    Usage,
)
from shared.contracts.identifiers import ClaimToken, Incarnation
from shared.contracts.requests import InferenceRequest, RequestEnvelope
from shared.contracts.topics import TopicNames
from shared.ledger.records import Append, AppendAnswer, ClaimRequest, Ended, Registration, Run, Sealed
from shared.messaging.records import SourceRecord
from shared.openai.decoding import decode_value
from shared.openai.envelope import read_envelope
from shared.openai.outcomes import outcome_error
from shared.openai.sealing import seal_outcome


def record_of(sent: dict[str, Any], *, partition: int = 0, offset: int = 0) -> SourceRecord:
    """What a consumer would read of the arguments of `RecordProducer.send`."""
    return SourceRecord(
        topic=sent["topic"],
        partition=sent["partition"] or partition,
        offset=offset,
        timestamp_ms=time.time_ns() // 1_000_000,
        key=sent["key"],
        value=sent["value"],
        headers=tuple(sent["headers"]),
    )


@dataclass
class FakeProducer:
    """Acknowledges everything, unless `error` is set; what came is in `sent`."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    error: PlatformError | None = None

    async def send(self, topic: str, **arguments: Any) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append({"topic": topic, **arguments})

    def record(self, index: int = -1) -> SourceRecord:
        return record_of(self.sent[index])


@dataclass
class Job:
    """One claimed request. `say` appends, `complete` and `fail` end it."""

    ledger: Any
    envelope: RequestEnvelope
    request: InferenceRequest
    token: ClaimToken
    cancel_requested: bool = False
    texts: dict[int, list[str]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, FinishReason] = field(default_factory=dict)
    token_numbers: Any = field(default_factory=itertools.count)

    def chunk(self, text: str, *, choice: int = 0, finish: FinishReason | None = None) -> Chunk:
        """The next chunk of a choice: one token for each character, none for no text."""
        position = self.positions.get(choice, 0)
        token_ids = tuple(ord(character) for character in text)
        self.positions[choice] = position + len(token_ids)
        self.texts.setdefault(choice, []).append(text)
        if finish is not None:
            self.reasons[choice] = finish
        return Chunk(choice=choice, position=position, token_ids=token_ids, text=text, finish_reason=finish)

    async def say(self, text: str, *, choice: int = 0, finish: FinishReason | None = None) -> AppendAnswer:
        return await self.append(self.chunk(text, choice=choice, finish=finish))

    async def append(self, *chunks: Chunk) -> AppendAnswer:
        answers = await self.ledger.append(
            [Append(request_id=self.envelope.request_id, token=self.token, chunks=chunks)]
        )
        self.cancel_requested = self.cancel_requested or answers[0].cancel_requested
        return answers[0]  # type: ignore[no-any-return]

    def completed(self) -> SealedOutcome:
        choices = tuple(
            ChoiceResult(
                index=index,
                text="".join(self.texts.get(index, [])),
                token_ids=(),
                finish_reason=self.reasons.get(index, FinishReason.STOP),
            )
            for index in range(self.request.num_choices)
        )
        usage = Usage(prompt_tokens=3, completion_tokens=sum(self.positions.values()))
        return self._sealed(self._outcome(Outcome.COMPLETED, choices=choices, usage=usage))

    def failed(self, error: PlatformError, outcome: Outcome = Outcome.FAILED) -> SealedOutcome:
        return self._sealed(self._outcome(outcome, error=outcome_error(error)))

    async def complete(self) -> SealedOutcome:
        return await self.end(self.completed())

    async def fail(self, error: PlatformError, outcome: Outcome = Outcome.FAILED) -> SealedOutcome:
        return await self.end(self.failed(error, outcome))

    async def end(self, outcome: SealedOutcome) -> SealedOutcome:
        answer = await self.ledger.seal(self.envelope.request_id, self.token, outcome)
        assert isinstance(answer, Sealed)
        await self.ledger.finish(self.envelope.request_id)
        return answer.outcome

    def _outcome(self, outcome: Outcome, **fields: Any) -> InferenceOutcome:
        return InferenceOutcome(
            request_id=self.envelope.request_id,
            outcome=outcome,
            kind=self.request.kind,
            model=self.request.model or self.envelope.pool,
            created_seconds=1_700_000_000,
            **fields,
        )

    def _sealed(self, outcome: InferenceOutcome) -> SealedOutcome:
        return seal_outcome(self.envelope, outcome, sealed_at_ms=1_700_000_000_000, max_bytes=1_000_000)


@dataclass
class ScriptedWorker:
    ledger: Any
    names: TopicNames = field(default_factory=TopicNames)
    pool: str = "default"
    incarnation: Incarnation = field(default_factory=lambda: Incarnation("scripted-0.abc"))

    async def claim(self, record: SourceRecord) -> Job | Ended:
        """Claim a record. Refuses with an assertion whatever is neither run nor ended."""
        envelope = read_envelope(record, names=self.names, pool=self.pool, cluster="test")
        request = decode_value(envelope, record.value)
        await self.ledger.refresh_lease(self.incarnation)
        registration = Registration(
            request_id=envelope.request_id,
            pool=envelope.pool,
            lane=envelope.lane,
            tenant=envelope.tenant,
            deadline_ms=envelope.deadline_ms,
            fingerprint=envelope.fingerprint,
            seed=request.sampling.seed,
        )
        claim = await self.ledger.claim(
            ClaimRequest(
                registration=registration,
                incarnation=self.incarnation,
                coordinates=envelope.coordinates,
                max_attempts=3,
            )
        )
        if isinstance(claim, Ended):
            return claim
        assert isinstance(claim, Run), claim
        return Job(ledger=self.ledger, envelope=envelope, request=request, token=claim.token)

    async def answer(self, record: SourceRecord, *words: str) -> SealedOutcome:
        """Claim, say the words in every choice, complete."""
        job = await self.claim(record)
        assert isinstance(job, Job)
        for choice in range(job.request.num_choices):
            for word in words:
                await job.say(word, choice=choice)
            await job.say("", choice=choice, finish=FinishReason.STOP)
        return await job.complete()
