"""The way of a request through the worker: intake, engine, emitter, conclusion, and the valve in front of them.

Joins the parts that tests want together without Kafka, Redis and processes: every port is a protocol. Hears the
engine (`EngineListener`) and the conclusions; opens and closes the valve by what is in hand.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.worker.conclusion import Conclusions, DeadLetters, Producer, SealingLedger
from services.worker.emitter import AppendingLedger, Emitter, RunningEngine, Spawner
from services.worker.engine.events import EngineReady, StepResult
from services.worker.intake import ClaimingLedger, Intake, PassOn, RetryLater
from services.worker.key_order import KeyOrder
from services.worker.observations import Observations
from services.worker.prompt_reading import EngineLimits, PromptReader
from services.worker.record_reading import RecordReader
from services.worker.retries import RetryPolicy
from services.worker.running_request import TextTokenizer
from services.worker.saturation import Saturation, TokenMarks
from services.worker.tokens_only import TokensOnly, show_token
from services.worker.work import RecordDelivery, Work
from shared.contracts.events import SealedOutcome
from shared.contracts.identifiers import Incarnation
from shared.contracts.topics import TopicNames
from shared.messaging.dead_letter import DeadLetterLimit
from shared.openai.tool_call_format import call_format_of
from shared.resilience.clock import Clock
from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer, NoTextDetokenizer
from shared.tokenization.tokenizer import Tokenizer

_log = structlog.get_logger(__name__)


class WorkerLedger(ClaimingLedger, AppendingLedger, SealingLedger, Protocol):
    """The ledger's verbs that a worker uses on requests."""


class Valve(Protocol):
    """Where records come from. Both are idempotent and return at once."""

    def pause_intake(self) -> None: ...
    def resume_intake(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPorts:
    """What the path needs of the world outside."""

    ledger: WorkerLedger
    engine: RunningEngine
    results: Producer
    replies: Producer
    dead_letters: DeadLetters
    valve: Valve
    spawner: Spawner
    clock: Clock
    tokenizer: Tokenizer | TokensOnly
    pass_on: PassOn
    retry_later: RetryLater


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """Plain values, resolved by the application."""

    pool: str
    model: str
    cluster: str
    incarnation: Incarnation
    names: TopicNames
    flush_interval_seconds: float
    max_attempts: int
    max_result_bytes: int
    max_open_tokens: int | None = None
    """None: twice what the KV cache holds."""


class RequestPath:
    """`alarm` is called with what this worker cannot survive; it returns at once."""

    def __init__(
        self,
        ports: PathPorts,
        settings: PathSettings,
        *,
        observations: Observations,
        limit: DeadLetterLimit,
        alarm: Callable[[Exception], None],
    ) -> None:
        self._settings = settings
        self._valve = ports.valve
        self._observations = observations
        self._limit = limit
        self._saturation = Saturation(TokenMarks.below(settings.max_open_tokens or 1))
        self._ready: EngineReady | None = None
        self.is_quarantined = False
        self.is_paused = False
        self.engine_is_ready = asyncio.Event()
        tokenizer = _text_tokenizer(ports.tokenizer)
        self._vocabulary_size = ports.tokenizer.vocabulary_size
        self._conclusions = conclusions = Conclusions(
            ledger=ports.ledger,
            results=ports.results,
            replies=ports.replies,
            dead_letters=ports.dead_letters,
            names=settings.names,
            pool=settings.pool,
            max_result_bytes=settings.max_result_bytes,
            clock=ports.clock,
            listener=self,
        )
        self.emitter = Emitter(
            ledger=ports.ledger,
            engine=ports.engine,
            conclusions=conclusions,
            spawner=ports.spawner,
            listener=observations,
            clock=ports.clock,
            flush_interval_seconds=settings.flush_interval_seconds,
            retries=RetryPolicy(max_attempts=settings.max_attempts),
        )
        self.intake = Intake(
            read=RecordReader(names=settings.names, pool=settings.pool, cluster=settings.cluster, model=settings.model),
            ledger=ports.ledger,
            starting=self.emitter,
            conclusions=conclusions,
            prompts=PromptReader(ports.tokenizer, self._limits),
            tokenizer=tokenizer,
            engine_is_ready=self.engine_is_ready,
            engine_fingerprint=self._engine_fingerprint,
            pass_on=ports.pass_on,
            retry_later=ports.retry_later,
            spawner=ports.spawner,
            listener=observations,
            clock=ports.clock,
            incarnation=settings.incarnation,
            max_attempts=settings.max_attempts,
            limit=limit,
            alarm=alarm,
        )
        self.emitter.return_to(self.intake)
        self._order = KeyOrder(
            self.intake.deliver, holds_copies=lambda topic: settings.names.holds_copies(settings.pool, topic)
        )

    def _limits(self) -> EngineLimits:
        assert self._ready is not None, "nothing is claimed before the engine is ready"
        return EngineLimits(
            models=frozenset({self._settings.model}),
            max_model_tokens=self._ready.max_model_tokens,
            vocabulary_size=min(self._ready.vocabulary_size, self._vocabulary_size),
            max_choices=self._ready.max_running_sequences,
        )

    def _engine_fingerprint(self) -> str:
        return "" if self._ready is None else self._ready.fingerprint

    def deliver(self, delivery: RecordDelivery) -> None:
        """For the request source: returns at once."""
        self._order.arrived(delivery)
        self.balance()

    async def put_back(self) -> None:
        """Redis lost its data: tell it again what is in hand. Raises `LedgerUnavailable`."""
        self.emitter.put_back()
        await self._conclusions.put_back()

    # --- what the engine says

    def engine_ready(self, ready: EngineReady) -> None:
        self._ready = ready
        high = self._settings.max_open_tokens or 2 * ready.kv_cache_tokens
        self._saturation = Saturation(TokenMarks.below(high))
        self._observations.engine_ready(ready)
        _log.info(
            "engine_ready",
            model=ready.model_name,
            dtype=ready.dtype,
            device=ready.device,
            attention=ready.attention_backend,
            decode_graphs=ready.num_decode_graphs,
            quantization=ready.quantization,
            weights=ready.weights,
            kv_cache=ready.kv_cache,
            speculation=ready.speculation,
            products=ready.quantization_note,
            kv_cache_tokens=ready.kv_cache_tokens,
            full_length_sequences=ready.num_full_sequences,
            tokens_of_a_sequence=ready.max_model_tokens,
            resident_bytes=ready.resident_bytes,
            threads=ready.num_threads,
        )
        if ready.attention_note:
            _log.warning("slower_attention", backend=ready.attention_backend, reason=ready.attention_note)
        self.engine_is_ready.set()
        self.balance()

    def step_finished(self, result: StepResult) -> None:
        self.emitter.step_finished(result)

    def engine_lost(self, reason: str) -> None:
        """Its requests go on from the ledger's log, on the next engine; the ledger counts the lost claims."""
        self.engine_is_ready.clear()
        self._observations.engine_lost(reason)
        self.balance()
        abandoned = self.emitter.abandon()
        _log.warning("engine_lost_requests", requests=len(abandoned))
        for work in abandoned:
            self.intake.claim_again(work, should_release=False)

    # --- what the conclusions say

    def concluded(self, work: Work, outcome: SealedOutcome) -> None:
        self._limit.succeeded()
        self._observations.concluded(work, outcome)
        self.balance()

    def failed(self, code: str) -> None:
        self._observations.failed(code)

    # --- the valve

    def quarantine(self, is_quarantined: bool) -> None:
        """An operator's or the supervisor's word: take nothing more, until told otherwise."""
        self.is_quarantined = is_quarantined
        self.balance()

    def balance(self) -> None:
        """Open or close the valve; called whenever what it depends on has changed."""
        is_paused = self.is_quarantined or self._saturation.should_pause(
            num_open_tokens=self.emitter.num_open_tokens,
            is_engine_ready=self.engine_is_ready.is_set(),
        )
        if is_paused == self.is_paused:
            return
        self.is_paused = is_paused
        if is_paused:
            self._valve.pause_intake()
        else:
            self._valve.resume_intake()


def _text_tokenizer(tokenizer: Tokenizer | TokensOnly) -> TextTokenizer:
    if isinstance(tokenizer, TokensOnly):
        return TextTokenizer(
            new_detokenizer=lambda stop, prompt: NoTextDetokenizer(),
            token_text=show_token,
            end_token_ids=frozenset(tokenizer.eos_token_ids),
            decode=lambda token_ids: "",
        )
    return TextTokenizer(
        new_detokenizer=lambda stop, prompt: IncrementalDetokenizer(tokenizer, stop, prompt),
        token_text=tokenizer.token_text,
        end_token_ids=frozenset(tokenizer.eos_token_ids),
        decode=tokenizer.decode,
        call_format=call_format_of(tokenizer),
    )
