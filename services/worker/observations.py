"""What the worker tells metrics and traces. Listens to intake, emitter and conclusions; decides nothing.

Counters on the token path are bound once and touched per chunk or per step, never per token.
"""

import statistics
import time
from collections import deque

from opentelemetry.trace import SpanKind, get_current_span, set_span_in_context

from services.worker.engine.events import EngineReady, StepResult
from services.worker.running_request import RunningRequest
from services.worker.service_levels import ServiceLevels
from services.worker.work import Work
from shared.contracts.errors import Blame, EngineFailed, WorkerDraining, WorkerLost, error_classes
from shared.contracts.events import Outcome, SealedOutcome
from shared.contracts.identifiers import Incarnation
from shared.ledger.records import Claim, Run
from shared.openai.outcomes import sealed_summary
from shared.settings.slo import SloSettings
from shared.telemetry import spans
from shared.telemetry.catalogue import Children
from shared.telemetry.first_samples import begin_delivery, begin_errors
from shared.telemetry.metrics import (
    BATCH_SIZE,
    CLAIMS,
    DRAFT_SECONDS,
    DRAFT_TOKENS,
    ENGINE_RESTARTS,
    ENGINE_STEP,
    ERRORS,
    INTER_TOKEN_LATENCY,
    KV_BLOCKS,
    MODEL_LOAD,
    PREEMPTIONS,
    QUEUE_WAIT,
    RESULTS,
    RETRIES,
    RUNNING_REQUESTS,
    TIME_TO_FIRST_TOKEN,
    TOKENS,
    WAITING_REQUESTS,
)
from shared.telemetry.propagation import extract

_RATE_WINDOW_SECONDS = 5.0
_LEAST_BUSY_SECONDS = 0.5
_STEPS_KEPT = 64


class TokenRate:
    """Output tokens per second over the last seconds; for heartbeats."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, now: float, num_tokens: int) -> None:
        self._steps.append((now, num_tokens))
        self._total += num_tokens
        self._drop(now)

    def per_second(self, now: float) -> float:
        self._drop(now)
        return self._total / _RATE_WINDOW_SECONDS

    def per_busy_second(self, now: float) -> float:
        """Since the first of the steps that count: a load that has just begun is not averaged with the rest before."""
        self._drop(now)
        if not self._steps:
            return 0.0
        return self._total / min(max(now - self._steps[0][0], _LEAST_BUSY_SECONDS), _RATE_WINDOW_SECONDS)

    def _drop(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now - _RATE_WINDOW_SECONDS:
            self._total -= self._steps.popleft()[1]


class Observations:
    """One per worker. Called on the event loop."""

    def __init__(
        self, *, pool: str, group: str, incarnation: Incarnation, service_levels: ServiceLevels | None = None
    ) -> None:
        self._pool = pool
        self._group = group
        self._incarnation = incarnation
        self._claims = Children(CLAIMS, pool=pool)
        self._tokens = Children(TOKENS, pool=pool)
        self._results = Children(RESULTS, pool=pool)
        self._kv_blocks = Children(KV_BLOCKS, pool=pool)
        self._retries = Children(RETRIES, pool=pool)
        self._queue_wait = Children(QUEUE_WAIT, pool=pool)
        self._first_token = Children(TIME_TO_FIRST_TOKEN, pool=pool)
        self._between_tokens = INTER_TOKEN_LATENCY.labels(pool=pool)
        self._step_seconds = ENGINE_STEP.labels(pool=pool)
        self._batch_size = BATCH_SIZE.labels(pool=pool)
        self._running = RUNNING_REQUESTS.labels(pool=pool)
        self._waiting = WAITING_REQUESTS.labels(pool=pool)
        self._preemptions = PREEMPTIONS.labels(pool=pool)
        self._accepted = DRAFT_TOKENS.labels(pool=pool, verdict="accepted")
        self._rejected = DRAFT_TOKENS.labels(pool=pool, verdict="rejected")
        self._draft_seconds = DRAFT_SECONDS.labels(pool=pool)
        begin_errors()
        begin_delivery(pool)
        self._num_preemptions_seen = 0
        self._decode_steps: deque[float] = deque(maxlen=_STEPS_KEPT)
        self.rate = TokenRate()
        self.drain = TokenRate()
        self.service_levels = service_levels or ServiceLevels(SloSettings())
        self.last_step: StepResult | None = None

    @property
    def step_seconds(self) -> float:
        """The median of the last steps that only decoded; 0 before the first."""
        return statistics.median(self._decode_steps) if self._decode_steps else 0.0

    # --- intake

    def taken(self, work: Work) -> None:
        """Opens the span of the whole work. Which attempt it is, only the claim tells."""
        parent = extract(work.envelope.trace_headers)
        envelope, record = work.envelope, work.delivery.record
        work.span = spans.tracer().start_span(
            spans.PROCESS_REQUEST,
            context=parent,
            kind=SpanKind.CONSUMER,
            start_time=work.received_ns,
        )
        work.context = set_span_in_context(work.span, parent)
        if not work.span.is_recording():
            return
        work.span.set_attributes(
            {
                spans.REQUEST_ID: work.request_id,
                spans.POOL: envelope.pool,
                spans.LANE: envelope.lane.value,
                spans.TENANT: envelope.tenant,
                spans.ATTEMPT: envelope.attempt,
                spans.INCARNATION: self._incarnation,
                **spans.messaging_attributes(
                    "process",
                    record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    group=self._group,
                ),
            }
        )

    def claimed(self, work: Work, claim: Claim) -> None:
        self._claims[type(claim).__name__.lower()].inc()
        if isinstance(claim, Run):
            waited = time.time() - work.envelope.coordinates.timestamp_ms / 1_000
            self._queue_wait[work.envelope.lane.value].observe(max(0.0, waited), spans.exemplar_of(work.span))
            if claim.attempt > 1:
                self._retries[_why_again(work, claim)].inc()
            if max(claim.attempt, work.envelope.attempt) > 1:  # a ledger that lost its data counts anew
                _link_to_first_attempt(work)
            work.span.set_attribute(spans.ATTEMPT, claim.attempt)
            if work.span.is_recording():  # whoever only waits for the holder has no queue wait of its own to tell
                posted_ns = work.delivery.record.timestamp_ms * 1_000_000
                spans.record_span(spans.QUEUE_WAIT, work.context, posted_ns, work.received_ns, _named(work))

    def started(self, run: RunningRequest) -> None:
        self._tokens["prompt"].inc(run.work.num_prompt_tokens)
        if run.work.span.is_recording():
            attributes = {**_named(run.work), spans.RESUMED_TOKENS: run.num_resumed_tokens}
            spans.record_span(spans.INTAKE, run.work.context, run.work.received_ns, time.time_ns(), attributes)

    # --- engine

    def engine_ready(self, ready: EngineReady) -> None:
        MODEL_LOAD.labels(pool=self._pool).set(ready.load_seconds)
        self._num_preemptions_seen = 0

    def engine_lost(self, reason: str) -> None:
        kind = "hung" if reason.startswith("no step") else "died"
        ENGINE_RESTARTS.labels(pool=self._pool, reason=kind).inc()
        self.last_step = None  # what it held is gone with it

    def step(self, result: StepResult) -> None:
        step = result.statistics
        self.last_step = result
        num_tokens = sum(len(event.token_ids) for event in result.tokens)
        now = time.monotonic()
        self.rate.add(now, num_tokens)
        self.drain.add(now, num_tokens)
        self._tokens["completion"].inc(num_tokens)
        self._step_seconds.observe(step.duration_seconds)
        if num_tokens and not step.num_prefill_tokens:
            self._decode_steps.append(step.duration_seconds)
        self._batch_size.observe(len(result.tokens))
        if step.num_drafted:
            self._accepted.inc(step.num_accepted)
            self._rejected.inc(step.num_drafted - step.num_accepted)
        self._draft_seconds.inc(step.draft_seconds)
        preempted = step.num_preemptions_total - self._num_preemptions_seen
        if preempted > 0:
            self._preemptions.inc(preempted)
            self._num_preemptions_seen = step.num_preemptions_total

    def publish_gauges(self) -> None:
        """With each heartbeat, not with each step."""
        if self.last_step is None:
            for gauge in (self._running, self._waiting, *self._kv_blocks.values()):
                gauge.set(0)
            return
        step = self.last_step.statistics
        self._running.set(step.num_running)
        self._waiting.set(step.num_waiting)
        self._kv_blocks["used"].set(step.blocks_used)
        self._kv_blocks["cached"].set(step.blocks_cached)
        free = step.blocks_total - step.blocks_used - step.blocks_cached
        self._kv_blocks["free"].set(free)

    def flushed(self, run: RunningRequest, num_tokens: int, now: float) -> None:
        if run.is_unflushed:
            envelope = run.work.envelope
            waited = max(0.0, time.time() - envelope.coordinates.timestamp_ms / 1_000)
            self._first_token[envelope.lane.value].observe(waited, spans.exemplar_of(run.work.span))
            self.service_levels.first_token(envelope.lane, envelope.tenant, waited)
        elif num_tokens:
            self._between_tokens.observe((now - run.last_flush_at) / num_tokens)

    def generated(self, run: RunningRequest) -> None:
        """The engine's part is over: its spans, from the engine's own times."""
        timings = run.timings
        if timings is None:
            return
        self._tokens["cached"].inc(timings.cached_prompt_tokens)
        tokens = [len(choice.token_ids) for choice in run.choices]
        # What it might still have asked for is not owed any more.
        self.drain.add(time.monotonic(), sum(run.max_tokens - number for number in tokens))
        envelope, seconds = run.work.envelope, (timings.last_token_ns - timings.first_token_ns) / 1e9
        if timings.first_token_ns and not run.num_resumed_tokens:
            self.service_levels.stream(envelope.lane, envelope.tenant, num_tokens=max(tokens), seconds=seconds)
        if not run.work.span.is_recording():
            return
        attributes = {**_named(run.work), spans.PREEMPTIONS: timings.num_preemptions}
        drafted = {spans.DRAFTED_TOKENS: timings.num_drafted, spans.ACCEPTED_TOKENS: timings.num_accepted}
        context = run.work.context
        prefilled_ns = timings.first_token_ns or timings.last_token_ns
        spans.record_span(spans.PREFILL, context, timings.submitted_ns, prefilled_ns, attributes)
        spans.record_span(spans.DECODE, context, prefilled_ns, timings.last_token_ns, {**_named(run.work), **drafted})

    # --- conclusions

    def concluded(self, work: Work, outcome: SealedOutcome) -> None:
        self._results[outcome.outcome.value].inc()
        envelope = work.envelope
        self.service_levels.ended(envelope.lane, envelope.tenant, is_our_failure=_is_ours(outcome))
        if work.span.is_recording():
            work.span.set_attribute(spans.OUTCOME, outcome.outcome.value)
            if outcome.outcome is Outcome.FAILED:
                code = work.refusal.code if work.refusal is not None else "failed"
                spans.set_error(work.span, code, "the request failed")
        work.span.end()

    def failed(self, code: str) -> None:
        kind = error_classes().get(code)
        blame = Blame.PLATFORM if kind is None else kind.blame
        ERRORS.labels(code=code, blame=blame.value).inc()


def _why_again(work: Work, claim: Run) -> str:
    if claim.lost_claims:
        return WorkerLost.code
    return EngineFailed.code if work.failures else WorkerDraining.code


def _is_ours(outcome: SealedOutcome) -> bool:
    """Whether the platform is to blame for the end: a caller's mistakes and cancellations are not its failures."""
    if outcome.outcome is not Outcome.FAILED:
        return outcome.outcome in (Outcome.EXPIRED, Outcome.DEAD_LETTERED)
    _, error = sealed_summary(outcome)
    kind = None if error is None else error_classes().get(error.code)
    return kind is None or kind.blame is not Blame.CALLER


def _link_to_first_attempt(work: Work) -> None:
    """To what the first attempt began with, its copy's publication: the span of a killed worker is never told."""
    first = get_current_span(extract(work.envelope.trace_headers)).get_span_context()
    if first.is_valid:
        work.span.add_link(first)


def _named(work: Work) -> dict[str, spans.AttributeValue]:
    return {spans.REQUEST_ID: work.request_id}
