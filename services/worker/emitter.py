"""From engine steps to the ledger's log, and to the end of each running request. Knows tokens, text and positions.

Engine events only fill the running requests and mark them; one loop flushes what is marked: the first token of a
request and its end at once, the rest at most every flush interval, together: a first token or an end takes no other
request's tokens along, or a busy worker's streams would be cut into ever smaller chunks. All requests of a flush
share one pipelined batch of appends, and only one batch is on its way at a time, so that a request's chunks can never
overtake each other (DELIVERY line 5). Fenced means silence: no terminal, the record is claimed again; unless Redis
has only forgotten the claim, then it is put back and the log written again from its beginning (line 14).
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import structlog

from services.worker.conclusion import RETRY_SECONDS
from services.worker.engine.events import RequestRejected, StepResult, Submit
from services.worker.retries import Retry, RetryPolicy, is_worth_another_try
from services.worker.running_request import Ending, RunningRequest, cancelled, expired, failed
from services.worker.work import Work
from shared.contracts.errors import (
    CapacityError,
    InvariantViolated,
    LedgerUnavailable,
    PlatformError,
    TransientError,
    error_classes,
)
from shared.contracts.events import InferenceOutcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.ledger.records import Append, AppendAnswer, AppendStatus, ClaimRequest
from shared.resilience.clock import Clock

_log = structlog.get_logger(__name__)
_MAX_REQUESTS_PER_BATCH = 256


class AppendingLedger(Protocol):
    """Raises `LedgerUnavailable`: the whole batch may or may not have been written; sending it again is safe."""

    async def append(self, batch: Sequence[Append]) -> list[AppendAnswer]: ...
    async def reclaim(
        self, request: ClaimRequest, token: ClaimToken, *, sealed: SealedOutcome | None = None
    ) -> bool: ...


class RunningEngine(Protocol):
    """Called on the event loop; all return at once. `submit` raises `EngineFailed`."""

    def submit(self, submit: Submit) -> None: ...
    def cancel(self, request_id: str, choice: int | None = None) -> None: ...
    def retire(self, request_id: str) -> None: ...


class Concluding(Protocol):
    async def conclude(
        self,
        work: Work,
        outcome: InferenceOutcome,
        *,
        sealed_at_ms: int | None = None,
        dead_letter: PlatformError | None = None,
    ) -> bool: ...


class Returning(Protocol):
    """Takes back work that this worker does not run any more. Both return at once."""

    def claim_again(self, work: Work, *, should_release: bool) -> None: ...
    def try_later(self, work: Work, retry: Retry) -> None:
        """Let go of the claim; try again, here or elsewhere, when the retry is due."""
        ...


class Spawner(Protocol):
    def create_task(self, coroutine: Coroutine[Any, Any, None], /) -> Any: ...


class RunListener(Protocol):
    """Metrics and spans. Called on the event loop, must not block or raise."""

    def step(self, result: StepResult) -> None: ...
    def flushed(self, run: RunningRequest, num_tokens: int, now: float) -> None: ...
    def generated(self, run: RunningRequest) -> None: ...


class Emitter:
    """Owns every running request from `start` until it is concluded, fenced or abandoned."""

    def __init__(
        self,
        *,
        ledger: AppendingLedger,
        engine: RunningEngine,
        conclusions: Concluding,
        spawner: Spawner,
        listener: RunListener,
        clock: Clock,
        flush_interval_seconds: float,
        retries: RetryPolicy,
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._conclusions = conclusions
        self._returning: Returning | None = None
        self._spawner = spawner
        self._listener = listener
        self._clock = clock
        self._flush_interval_seconds = flush_interval_seconds
        self._retries = retries
        self._running: dict[str, RunningRequest] = {}
        self._dirty: dict[str, RunningRequest] = {}
        self._weights: dict[str, int] = {}
        self._reclaiming: set[RunningRequest] = set()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._has_ticked = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.num_open_tokens = 0

    def return_to(self, returning: Returning) -> None:
        """Where work goes that does not end here. Set once, before anything runs."""
        self._returning = returning

    def _claim_again(self, work: Work, *, should_release: bool) -> None:
        assert self._returning is not None
        self._returning.claim_again(work, should_release=should_release)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def is_running(self, request_id: RequestId) -> bool:
        return request_id in self._running

    async def idle(self) -> None:
        """Returns when nothing runs here."""
        await self._idle.wait()

    def start(self, run: RunningRequest) -> None:
        """Run it, or conclude it when the log already has its end. Raises `EngineFailed`, then nothing was taken."""
        request_id = run.work.request_id
        if (fenced := self._running.get(request_id)) is not None:
            self._give_way(fenced)
        submission = None if run.is_over else run.submission()
        if submission is not None:
            self._engine.submit(submission)
        self._running[request_id] = run
        self._idle.clear()
        self._weights[request_id] = run.num_open_tokens
        self.num_open_tokens += self._weights[request_id]
        if submission is None:
            self._mark(run, is_urgent=True)

    def _give_way(self, fenced: RunningRequest) -> None:
        """Taken over and claimed again by us, by way of a copy, before its next append could tell: what the engine
        still says of it must not count as the new run's. Its own record waits for the request's end."""
        self._engine.cancel(fenced.work.request_id)
        self._forget(fenced)
        if not fenced.is_concluding:
            self._claim_again(fenced.work, should_release=False)

    def step_finished(self, result: StepResult) -> None:
        """Everything one step produced."""
        self._listener.step(result)
        for timings in result.timings:
            if timings.request_id in self._running:
                self._running[timings.request_id].timings = timings
        for event in result.tokens:
            run = self._running.get(event.request_id)
            if run is None or run.is_concluding:
                continue
            try:
                is_stopped = run.accept(event)
            except InvariantViolated as error:
                self._end(run, failed(error))
                continue
            if is_stopped:
                self._engine.cancel(event.request_id, event.choice)
            is_urgent = event.finish_reason is not None or is_stopped or run.is_unflushed
            self._mark(run, is_urgent=is_urgent)
        for rejected in result.rejected:
            self._reject(rejected)

    def _reject(self, rejected: RequestRejected) -> None:
        run = self._running.get(rejected.request_id)
        if run is None:
            return
        error, work = _error_of(rejected), run.work
        _log.info("engine_refused", request_id=rejected.request_id, code=error.code)
        if isinstance(error, CapacityError):
            self._forget(run)
            self._claim_again(work, should_release=True)
        elif (retry := self._next_try(work, error)) is not None:
            self._forget(run)
            assert self._returning is not None
            self._returning.try_later(work, retry)
        else:
            self._end(run, failed(error))

    def _next_try(self, work: Work, error: PlatformError) -> Retry | None:
        if not is_worth_another_try(error):
            return None
        work.failures += 1
        deadline_ms = work.envelope.deadline_ms
        return self._retries.plan(failures=work.failures, deadline_ms=deadline_ms, now_ms=self._clock.now_ms())

    def cancel(self, request_id: RequestId, reason: str = "") -> None:
        """Somebody no longer wants it. Unknown ids are no error: the message may be late."""
        run = self._running.get(request_id)
        if run is not None:
            self._end(run, cancelled(reason))

    def expire(self, now_ms: int) -> None:
        """End what has passed its deadline; called a few times a second."""
        for run in list(self._running.values()):
            deadline_ms = run.work.envelope.deadline_ms
            if deadline_ms is not None and deadline_ms <= now_ms:
                self._end(run, expired())

    def _end(self, run: RunningRequest, ending: Ending) -> None:
        if run.is_over or run.is_concluding:
            return
        run.end(ending)
        self._engine.cancel(run.work.request_id)
        self._mark(run, is_urgent=True)

    def abandon(self, *, only_unfinished: bool = True) -> list[Work]:
        """Stop running these and give the records back: the engine is gone, or the worker is about to leave."""
        abandoned = []
        for run in list(self._running.values()):
            if run.is_concluding or (only_unfinished and run.is_over):
                continue
            self._engine.cancel(run.work.request_id)
            self._forget(run)
            abandoned.append(run.work)
        return abandoned

    def _forget(self, run: RunningRequest) -> None:
        request_id = run.work.request_id
        if self._running.get(request_id) is run:
            del self._running[request_id]
            self.num_open_tokens -= self._weights.pop(request_id)
        if not self._running:
            self._idle.set()
        if self._dirty.get(request_id) is run:
            del self._dirty[request_id]

    def _mark(self, run: RunningRequest, *, is_urgent: bool) -> None:
        self._dirty[run.work.request_id] = run
        if is_urgent:
            self._wake.set()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._flush_interval_seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._has_ticked = True
        self._wake.set()

    async def run(self) -> None:
        """The flush loop; until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """One batch of everything that is due, its answers included."""
        now = self._clock.monotonic()
        # At a tick half an interval is enough: requests that started at different times grow together.
        patience = self._flush_interval_seconds / 2 if self._has_ticked else self._flush_interval_seconds
        self._has_ticked = False
        due = [
            run
            for run in self._dirty.values()
            if (run.is_over or now - run.last_flush_at >= patience) and run not in self._reclaiming
        ]
        for start in range(0, len(due), _MAX_REQUESTS_PER_BATCH):
            await self._flush_part(due[start : start + _MAX_REQUESTS_PER_BATCH], now)
        if self._dirty and self._timer is None and not self._wake.is_set():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._flush_interval_seconds, self._ring)

    async def _flush_part(self, runs: list[RunningRequest], now: float) -> None:
        batch: list[Append] = []
        sent: list[RunningRequest] = []
        for run in runs:
            self._dirty.pop(run.work.request_id, None)
            chunks = run.next_chunks()
            if chunks:
                batch.append(Append(request_id=run.work.request_id, token=run.token, chunks=chunks))
                sent.append(run)
            elif run.is_over:
                self._conclude(run)
        if not batch:
            return
        try:
            answers = await self._ledger.append(batch)
        except LedgerUnavailable as error:
            _log.warning("append_waits", error=error.message, requests=len(sent))
            await self._clock.sleep(RETRY_SECONDS / 5)
            for run in sent:
                if self._running.get(run.work.request_id) is run:
                    self._mark(run, is_urgent=True)
            return
        for run, entry, answer in zip(sent, batch, answers, strict=True):
            if self._running.get(run.work.request_id) is run:
                self._settle(run, entry, answer, now)

    def _settle(self, run: RunningRequest, entry: Append, answer: AppendAnswer, now: float) -> None:
        if answer.status is AppendStatus.OK:
            num_tokens = sum(len(chunk.token_ids) for chunk in entry.chunks)
            self._listener.flushed(run, num_tokens, now)
            run.acknowledge()
            run.last_flush_at = now
        elif answer.status is AppendStatus.BEHIND:
            _log.info("ledger_is_behind", request_id=entry.request_id)
            run.refill(answer.next_positions)
        else:
            _log.info("fenced", request_id=entry.request_id, status=answer.status.value)
            self._reclaim_soon(run)
            return
        if answer.cancel_requested:
            self._end(run, cancelled())
        elif answer.deadline_passed:
            self._end(run, expired())
        if run.has_news:
            self._mark(run, is_urgent=run.is_over)
        elif run.is_over:
            self._conclude(run)

    def _conclude(self, run: RunningRequest) -> None:
        if run.is_concluding:
            return
        run.is_concluding = True
        self._engine.retire(run.work.request_id)
        self._listener.generated(run)
        self._spawner.create_task(self._see_through(run))

    async def _see_through(self, run: RunningRequest) -> None:
        ending = run.ending
        is_exhausted = ending is not None and isinstance(ending.error, TransientError)
        dead_letter = ending.error if ending is not None and is_exhausted else None
        if await self._conclusions.conclude(run.work, run.outcome(), dead_letter=dead_letter):
            self._forget(run)
            return
        run.is_concluding = False
        if self._running.get(run.work.request_id) is run:
            self._reclaim_soon(run)
        else:
            self._claim_again(run.work, should_release=False)

    def put_back(self) -> None:
        """Redis lost its data: tell it again what runs here, from the first token on."""
        for run in list(self._running.values()):
            if not run.is_concluding:
                self._reclaim_soon(run)

    def _reclaim_soon(self, run: RunningRequest) -> None:
        if run not in self._reclaiming:
            self._reclaiming.add(run)
            self._spawner.create_task(self._reclaim(run))

    async def _reclaim(self, run: RunningRequest) -> None:
        """Fenced by a Redis that forgot us: go on. Fenced by somebody else's claim: be silent."""
        request_id = run.work.request_id
        try:
            is_ours = await self._ask_to_reclaim(run)
        finally:
            self._reclaiming.discard(run)
        if self._running.get(request_id) is not run:
            return
        if is_ours:
            run.refill(dict.fromkeys(range(len(run.choices)), 0))
            self._mark(run, is_urgent=True)
        else:
            self._engine.cancel(request_id)
            self._forget(run)
            self._claim_again(run.work, should_release=False)

    async def _ask_to_reclaim(self, run: RunningRequest) -> bool:
        assert run.work.claimed is not None
        while self._running.get(run.work.request_id) is run:
            try:
                return await self._ledger.reclaim(run.work.claimed, run.token)
            except LedgerUnavailable as error:
                _log.warning("reclaim_waits", request_id=run.work.request_id, error=error.message)
                await self._clock.sleep(RETRY_SECONDS / 5)
        return False


def _error_of(rejected: RequestRejected) -> PlatformError:
    kind = error_classes().get(rejected.code, InvariantViolated)
    if issubclass(kind, CapacityError):
        return kind(rejected.message, retry_after_seconds=RETRY_SECONDS, param=rejected.param)
    return kind(rejected.message, param=rejected.param)
