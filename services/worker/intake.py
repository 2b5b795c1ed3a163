"""From a record to a running request: read, claim, tokenize, submit. Every record ends in a start or in an answer.

Each record has one task, from its delivery until it runs, is answered, or turns out to be somebody else's; who is
not answered by the ledger (held, recovering, away) asks again every 500 ms. Refuses to know tokens' fate afterwards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from services.worker.conclusion import Conclusions
from services.worker.logged_outcome import outcome_from_log, verdict_ending
from services.worker.prompt_reading import PromptReader
from services.worker.retries import Retry
from services.worker.running_request import (
    Ending,
    RunningRequest,
    TextTokenizer,
    cancelled,
    failed,
)
from services.worker.work import RecordDelivery, Work
from shared.contracts.errors import (
    EngineFailed,
    IdempotencyConflict,
    InvariantViolated,
    LedgerUnavailable,
    PlatformError,
    PoisonMessage,
    UnsupportedVersion,
)
from shared.contracts.events import Chunk
from shared.contracts.identifiers import (
    ClaimToken,
    Incarnation,
    RequestId,
    seed_from_request_id,
)
from shared.contracts.requests import RequestEnvelope
from shared.ledger.records import (
    Claim,
    ClaimRequest,
    Conflict,
    Ended,
    Finished,
    Foreign,
    Held,
    Recovering,
    Registration,
    Run,
    Sealed,
)
from shared.messaging.dead_letter import DeadLetterLimit, DeadLetterStorm
from shared.resilience.clock import Clock

_log = structlog.get_logger(__name__)
CLAIM_AGAIN_SECONDS = 0.5


class ClaimingLedger(Protocol):
    """Raises `LedgerUnavailable`; may then be asked again."""

    async def claim(self, request: ClaimRequest) -> Claim: ...
    async def release(self, request_id: RequestId, token: ClaimToken) -> bool: ...


class Starting(Protocol):
    """Runs requests. `start` returns at once; raises `EngineFailed` when there is no engine."""

    def start(self, run: RunningRequest) -> None: ...
    def is_running(self, request_id: RequestId) -> bool: ...


PassOn = Callable[[Work], Awaitable[bool]]
"""Puts a copy where another worker polls, acknowledged, and is done with the record. False: nowhere to, or not now."""

RetryLater = Callable[[Work, Retry], Awaitable[bool]]
"""Puts a copy on a delay topic, acknowledged, and is done with the record. False: it has to wait here."""


class Spawner(Protocol):
    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any: ...


class IntakeListener(Protocol):
    """Metrics and spans; must not block or raise."""

    def taken(self, work: Work) -> None: ...
    def claimed(self, work: Work, claim: Claim) -> None: ...
    def started(self, run: RunningRequest) -> None: ...


class Intake:
    """`deliver` and `claim_again` return at once; the work goes on in tasks of the spawner."""

    def __init__(
        self,
        *,
        read: Callable[[RecordDelivery], Work],
        ledger: ClaimingLedger,
        starting: Starting,
        conclusions: Conclusions,
        prompts: PromptReader,
        tokenizer: TextTokenizer,
        engine_is_ready: asyncio.Event,
        engine_fingerprint: Callable[[], str],
        pass_on: PassOn,
        retry_later: RetryLater,
        spawner: Spawner,
        listener: IntakeListener,
        clock: Clock,
        incarnation: Incarnation,
        max_attempts: int,
        limit: DeadLetterLimit,
        alarm: Callable[[Exception], None],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._read = read
        self._ledger = ledger
        self._starting = starting
        self._conclusions = conclusions
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._engine_is_ready = engine_is_ready
        self._engine_fingerprint = engine_fingerprint
        self._pass_on = pass_on
        self._retry_later = retry_later
        self._spawner = spawner
        self._listener = listener
        self._clock = clock
        self._incarnation = incarnation
        self._limit = limit
        self._alarm = alarm
        self._max_attempts = max_attempts
        self._now_ns = now_ns
        self._is_stopped = False
        self._settling: set[RequestId] = set()
        self._suspect: RequestId | None = None
        self._waiting: set[Work] = set()
        self._num_pursued = 0

    @property
    def num_pursued(self) -> int:
        """Records that are being claimed, tokenized or answered without having run."""
        return self._num_pursued

    def deliver(self, delivery: RecordDelivery) -> None:
        """A record came in. Undecodable ones become dead letters."""
        self._spawner.create_task(self._take(delivery))

    def claim_again(self, work: Work, *, should_release: bool) -> None:
        """This worker stopped running it: fenced, refused by the engine, or the engine is gone."""
        self._spawner.create_task(self._pursue_again(work, should_release=should_release))

    def try_later(self, work: Work, retry: Retry) -> None:
        """It failed by an error of ours: by way of a delay topic, so that nobody waits for it."""
        self._spawner.create_task(self._retry(work, retry))

    def stop(self) -> None:
        """Claim nothing more. What is not running stays uncommitted and goes to the partitions' next holder."""
        self._is_stopped = True

    def abandon(self) -> list[Work]:
        """After `stop`: what ran here and waits to run again (the engine died). It may be handed over now."""
        return [work for work in self._waiting if work.token is not None]

    async def _take(self, delivery: RecordDelivery) -> None:
        try:
            work = self._read(delivery)
        except PlatformError as error:
            await self._discard(delivery, error)
            return
        except Exception as error:  # noqa: BLE001 - the intake loop: a record that breaks us is a dead letter
            _log.exception("record_broke_intake", topic=delivery.record.topic, offset=delivery.record.offset)
            await self._discard(delivery, PoisonMessage(f"{type(error).__name__} while reading the record"))
            return
        self._listener.taken(work)
        await self._guarded(work)

    async def _pursue_again(self, work: Work, *, should_release: bool) -> None:
        if should_release:
            await self._release(work)
        if self._engine_is_ready.is_set():
            await self._clock.sleep(CLAIM_AGAIN_SECONDS)
        await self._guarded(work)

    async def _retry(self, work: Work, retry: Retry) -> None:
        await self._release(work)
        if await self._retry_later(work, retry):
            return
        # Nobody else has it: a key's order is kept, or Kafka is away.
        await self._until(work, self._clock.sleep(max(0, retry.not_before_ms - self._clock.now_ms()) / 1_000))
        await self._guarded(work)

    async def _release(self, work: Work) -> None:
        token, work.token = work.token, None
        if token is None:
            return
        try:
            await self._ledger.release(work.request_id, token)
        except LedgerUnavailable as error:
            _log.warning("release_failed", request_id=work.request_id, error=error.message)

    async def _guarded(self, work: Work) -> None:
        self._num_pursued += 1
        try:
            await self._pursue(work)
        except Exception as error:  # noqa: BLE001 - the intake loop: our bug ends this request, not the worker
            _log.exception("intake_failed", request_id=work.request_id)
            await self._fail_unexpected(work, error)
        finally:
            self._num_pursued -= 1

    async def _fail_unexpected(self, work: Work, error: Exception) -> None:
        problem = (
            error if isinstance(error, PlatformError) else InvariantViolated("an internal error ended the request")
        )
        if work.token is None:
            await self._discard(work.delivery, problem)
        elif not await self._conclude(work, failed(problem), ()):
            self.claim_again(work, should_release=False)

    async def _discard(self, delivery: RecordDelivery, error: PlatformError) -> None:
        """To the dead letters; unless there are too many: then the record stays, and the worker stops."""
        record = delivery.record
        try:
            self._limit.dead_lettered()
        except DeadLetterStorm as storm:
            self._alarm(storm)
            return
        _log.warning("dead_letter", topic=record.topic, offset=record.offset, code=error.code)
        await self._conclusions.discard(delivery, error)

    async def _pursue(self, work: Work) -> None:
        """Claim until there is an answer that settles the record."""
        while not self._is_stopped:
            await self._until(work, self._engine_is_ready.wait())
            # A copy of a record may be here beside it: between claim and start only one of them may ask.
            if work.request_id not in self._settling:
                self._settling.add(work.request_id)
                try:
                    if await self._claim_and_settle(work):
                        return
                finally:
                    self._settling.discard(work.request_id)
            await self._until(work, self._clock.sleep(CLAIM_AGAIN_SECONDS))

    async def _until(self, work: Work, event: Coroutine[Any, Any, object]) -> None:
        self._waiting.add(work)
        try:
            await event
        finally:
            self._waiting.discard(work)

    async def _claim_and_settle(self, work: Work) -> bool:
        claim = await self._claim(work)
        if claim is None:
            return False
        if self._is_stopped and isinstance(claim, Run):
            work.token = claim.token
            await self._release(work)
            return True
        return await self._settle(work, claim)

    async def _claim(self, work: Work) -> Claim | None:
        request = self._claim_request(work)
        try:
            claim = await self._ledger.claim(request)
        except LedgerUnavailable as error:
            _log.warning("claim_waits", request_id=work.request_id, error=error.message)
            return None
        work.claimed = request
        self._listener.claimed(work, claim)
        return claim

    def _claim_request(self, work: Work) -> ClaimRequest:
        envelope = work.envelope
        request = work.request
        has_own_seed = request is not None and request.has_own_seed
        seed = request.sampling.seed if request is not None and has_own_seed else seed_from_request_id(work.request_id)
        return ClaimRequest(
            registration=_registration(envelope, seed),
            incarnation=self._incarnation,
            coordinates=envelope.coordinates,
            max_attempts=self._max_attempts,
            running=self._starting.is_running(work.request_id),
            engine=self._engine_fingerprint(),
            trace_headers=envelope.trace_headers,
        )

    async def _settle(self, work: Work, claim: Claim) -> bool:
        """True when this task has nothing more to do with the record."""
        if isinstance(claim, Run):
            work.token = claim.token
            if not self._may_run(work, claim):
                await self._release(work)
                return False
            return await self._start(work, claim)
        if isinstance(claim, Ended):
            work.token = claim.token
            return await self._conclude_verdict(work, claim)
        if isinstance(claim, Sealed):
            if not work.has_seen_seal:
                # Whoever sealed it is probably publishing it right now: only a seal that stays is ours to repeat.
                work.has_seen_seal = True
                return False
            await self._conclusions.repeat(work, claim.outcome)
        elif isinstance(claim, Finished):
            work.delivery.done()
        elif isinstance(claim, Foreign):
            # Its log is another engine's: a worker with those weights may poll another partition.
            if not work.has_seen_foreign:
                work.has_seen_foreign = True
                ours, theirs = self._engine_fingerprint(), claim.engine
                _log.warning("stream_of_another_engine", request_id=work.request_id, ours=ours, theirs=theirs)
                return False
            return await self._pass_on(work)
        elif isinstance(claim, Conflict):
            error = IdempotencyConflict("another request has this id and a different body")
            await self._discard(work.delivery, error)
        else:
            assert isinstance(claim, Held | Recovering)
            return False
        return True

    def _may_run(self, work: Work, claim: Run) -> bool:
        """Who would be given up after one more loss runs with no other such: only the guilty one dies again.

        All requests of a batch lose their claim when one of them kills the engine. Fresh ones may run beside the
        suspect: they have losses to spare.
        """
        if claim.lost_claims < max(1, self._max_attempts - 1):
            return True
        other = self._suspect
        is_other_here = other is not None and (other in self._settling or self._starting.is_running(other))
        if is_other_here and other != work.request_id:
            return False
        self._suspect = work.request_id
        return True

    async def _start(self, work: Work, claim: Run) -> bool:
        if work.refusal is not None:
            # What a newer release wrote is kept for one, byte for byte.
            is_kept = isinstance(work.refusal, UnsupportedVersion)
            dead_letter = work.refusal if is_kept else None
            return await self._conclude(work, failed(work.refusal), claim.chunks, dead_letter=dead_letter)
        try:
            max_tokens = await self._prompts.read(work)
            run = RunningRequest(
                work,
                token=claim.token,
                seed=claim.seed,
                max_tokens=max_tokens,
                chunks=claim.chunks,
                tokenizer=self._tokenizer,
                claimed_ns=self._now_ns(),
            )
        except PlatformError as error:
            return await self._conclude(work, failed(error), claim.chunks)
        if claim.cancel_requested:
            run.end(cancelled())
        try:
            self._starting.start(run)
        except EngineFailed:
            await self._release(work)
            return False
        self._listener.started(run)
        return True

    async def _conclude_verdict(self, work: Work, claim: Ended) -> bool:
        """The ledger has decided; the bytes follow from its answer and the record alone."""
        ending, dead_letter = verdict_ending(claim)
        return await self._conclude(work, ending, claim.chunks, sealed_at_ms=claim.at_ms, dead_letter=dead_letter)

    async def _conclude(
        self,
        work: Work,
        ending: Ending,
        chunks: list[Chunk] | tuple[Chunk, ...],
        *,
        sealed_at_ms: int | None = None,
        dead_letter: PlatformError | None = None,
    ) -> bool:
        outcome = outcome_from_log(work, ending, chunks)
        return await self._conclusions.conclude(work, outcome, sealed_at_ms=sealed_at_ms, dead_letter=dead_letter)


def _registration(envelope: RequestEnvelope, seed: int) -> Registration:
    return Registration(
        request_id=envelope.request_id,
        pool=envelope.pool,
        lane=envelope.lane,
        tenant=envelope.tenant,
        deadline_ms=envelope.deadline_ms,
        fingerprint=envelope.fingerprint,
        seed=seed,
    )
