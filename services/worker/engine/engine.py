"""The engine: tokens in, tokens out. Synchronous and mute; whoever owns it calls `step` as long as it has work.

Three verbs make a step: the scheduler picks, the runner computes, the results are told. It knows no text, no
topics, no traces and no sockets; its only outside world is the clock, for the timings it reports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import groupby

import psutil

from services.worker.engine.batch import SampledToken, ScheduledBatch, Verdict
from services.worker.engine.config import EngineConfig
from services.worker.engine.events import (
    Cancel,
    EngineReady,
    RequestRejected,
    RequestTimings,
    StepResult,
    StepStatistics,
    Submit,
)
from services.worker.engine.execution.model_loading import LoadedModel, load_model
from services.worker.engine.grammar.compilations import Compilations
from services.worker.engine.grammar.compiler import GrammarCompiler
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.request_intake import check_submission, open_request
from services.worker.engine.scheduling.draft_lengths import DraftLengths
from services.worker.engine.scheduling.scheduler import Scheduler, Taken
from services.worker.engine.scheduling.step_costs import StepCosts
from services.worker.engine.sequence import RequestProgress, Sequence
from services.worker.engine.speculation.methods import build_methods
from services.worker.engine.speculation.speculation import Speculation
from services.worker.engine.step_report import StepReport, num_equal, reason_to_fail

_IDLE_SECONDS = 0.01


class Engine:
    """Not thread-safe: load, submit, cancel and step from one thread."""

    def __init__(
        self,
        config: EngineConfig,
        model: LoadedModel,
        *,
        load_seconds: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock`: seconds that steps and drafts take."""
        self._config = config
        self._clock = clock
        self._runner = model.runner
        costs = StepCosts(model.step_seconds)
        self._speculation = Speculation(
            build_methods(config, model), default=config.speculation, costs=costs, clock=clock
        )
        cache = PagedCache(model.geometry, num_blocks=model.num_blocks, enable_prefix_cache=config.enable_prefix_cache)
        self._scheduler = Scheduler(
            cache,
            max_tokens_per_step=config.max_tokens_per_step,
            max_running_sequences=config.max_running_sequences,
            policy=config.policy,
            draft_lengths=DraftLengths(costs, max_tokens=config.max_draft_tokens, is_fixed=config.fixed_draft_tokens),
        )
        self._requests: dict[str, RequestProgress] = {}
        self._compilations = Compilations(GrammarCompiler(config.model, vocabulary_size=model.vocabulary_size))
        self._report = StepReport()
        self._num_steps = 0
        self.ready = EngineReady(
            model_name=config.model.name,
            fingerprint=model.fingerprint,
            vocabulary_size=model.vocabulary_size,
            max_model_tokens=model.max_model_tokens,
            block_size_tokens=config.block_size_tokens,
            num_kv_blocks=model.num_blocks,
            kv_cache_tokens=model.geometry.capacity_tokens(model.num_blocks, max_model_tokens=model.max_model_tokens),
            num_full_sequences=model.geometry.num_full_sequences(
                model.num_blocks, max_model_tokens=model.max_model_tokens
            ),
            max_running_sequences=config.max_running_sequences,
            device=model.device,
            dtype=model.dtype,
            attention_backend=model.attention_backend,
            attention_note=model.attention_note,
            num_decode_graphs=model.num_decode_graphs,
            quantization=model.quantization,
            quantization_note=model.quantization_note,
            weights=model.weights,
            kv_cache=model.kv_cache,
            speculation=config.speculation,
            speculation_methods=self._speculation.names,
            load_seconds=load_seconds,
            process_id=os.getpid(),
            resident_bytes=psutil.Process().memory_info().rss,
            num_threads=model.num_threads,
        )

    @classmethod
    def load(cls, config: EngineConfig, *, clock: Callable[[], float] = time.perf_counter) -> Engine:
        """Reads the checkpoint; takes seconds. Raises CheckpointError or ValueError, naming what is wrong."""
        started = time.monotonic()
        model = load_model(config)
        return cls(config, model, load_seconds=time.monotonic() - started, clock=clock)

    @property
    def has_work(self) -> bool:
        """Something to compute, or something to tell."""
        return self._scheduler.has_work or not self._report.is_empty or not self._compilations.is_empty

    def submit(self, submit: Submit) -> None:
        """Queue a request. What cannot run is rejected by name in the next step's result, never raised."""
        rejection = check_submission(
            submit,
            vocabulary_size=self.ready.vocabulary_size,
            max_model_tokens=self.ready.max_model_tokens,
            is_known=submit.request_id in self._requests,
            num_places=self._config.max_waiting_sequences - self._num_waiting,
            speculation_methods=self._speculation.names,
        )
        if rejection is not None:
            self._report.rejected.append(rejection)
            return
        request = open_request(
            submit,
            vocabulary_size=self.ready.vocabulary_size,
            max_model_tokens=self.ready.max_model_tokens,
            submitted_ns=time.time_ns(),
        )
        self._requests[request.request_id] = request
        for sequence in request.sequences.values():
            self._speculation.begin(sequence, submit.speculation)
        if submit.grammar is None:
            self._start(request)
        else:
            self._compilations.begin(request, submit.grammar, submit.eos_token_ids)

    @property
    def _num_waiting(self) -> int:
        return self._scheduler.num_waiting + self._compilations.num_choices

    def _start(self, request: RequestProgress) -> None:
        for sequence in list(request.sequences.values()):
            reason = sequence.finish_reason()
            if reason is not None and not (sequence.only_scores and sequence.needs_whole_prompt):
                self._report.add_end_without_token(sequence, reason)
                self._end(sequence)
        for sequence in leaders(request):
            self._scheduler.add(sequence)

    def cancel(self, cancel: Cancel) -> None:
        """Stop a choice or a request; its blocks are free when this returns."""
        request = self._requests.get(cancel.request_id)
        if request is None:
            return
        is_compiling = request.request_id in self._compilations
        for choice in list(request.sequences) if cancel.choice is None else [cancel.choice]:
            sequence = request.sequences.get(choice)
            if sequence is not None:
                if not is_compiling:
                    self._scheduler.cancel(sequence)
                self._end(sequence)
        if not request.sequences:
            self._compilations.discard(request.request_id)

    def step(self) -> StepResult:
        """One batch through the model; without work only what is left to tell."""
        started = self._clock()
        if not self._compilations.is_empty:
            self._start_compiled()
        batch = self._scheduler.schedule()
        verdicts = self._compute(batch) if batch.items else []
        self._num_steps += 1
        return self._report.take(self._statistics(batch, verdicts, self._clock() - started))

    def check_integrity(self) -> None:
        """Raises AssertionError when blocks or sequences do not add up."""
        self._scheduler.check_integrity()

    def _start_compiled(self) -> None:
        """What has its grammar now is queued; with nothing else to do, wait a moment for it."""
        if not self._scheduler.has_work and self._report.is_empty:
            self._compilations.wait(_IDLE_SECONDS)
        for request, refusal in self._compilations.take_finished():
            if refusal is None:
                self._start(request)
            else:
                self._report.rejected.append(refusal)
                del self._requests[request.request_id]

    def _compute(self, batch: ScheduledBatch) -> list[Verdict]:
        _mark_scheduled(batch, time.time_ns())
        self._speculation.draft(batch)
        started = self._clock()
        outcome = self._runner.launch(batch).read()
        seconds = self._clock() - started
        taken = self._scheduler.complete(batch, outcome.tokens)
        drafts = {id(verdict.sequence): verdict.draft.token_ids for verdict in outcome.verdicts}
        now_ns = time.time_ns()
        broken: dict[str, RequestRejected] = {}
        for sequence, tokens, reason in by_sequence(taken):
            request = sequence.request
            rejection = reason_to_fail(tokens[-1])
            if rejection is not None:
                broken[request.request_id] = rejection
                continue
            request.first_token_ns = request.first_token_ns or now_ns
            request.last_token_ns = now_ns
            if sequence.only_scores:
                self._report.add_end_without_token(sequence, "length")
            else:
                draft = drafts.get(id(sequence), ())
                request.num_drafted += len(draft)
                request.num_accepted += num_equal([token.token_id for token in tokens], draft)
                self._report.add_tokens(tokens, reason, draft)
            if reason is not None:
                self._scheduler.finish(sequence)
                self._end(sequence)
        for rejection in broken.values():
            self._fail(rejection)
        self._speculation.learn(batch, outcome.verdicts, seconds)
        return outcome.verdicts

    def _fail(self, rejection: RequestRejected) -> None:
        self._report.rejected.append(rejection)
        request = self._requests.pop(rejection.request_id, None)
        if request is not None:
            for sequence in list(request.sequences.values()):
                self._scheduler.cache.forget(sequence)
                self._scheduler.cancel(sequence)
                self._speculation.forget(sequence)

    def _end(self, sequence: Sequence) -> None:
        request = sequence.request
        self._speculation.forget(sequence)
        del request.sequences[sequence.choice]
        if not request.sequences:
            del self._requests[request.request_id]
            self._report.timings.append(
                RequestTimings(
                    request_id=request.request_id,
                    submitted_ns=request.submitted_ns,
                    scheduled_ns=request.scheduled_ns,
                    first_token_ns=request.first_token_ns,
                    last_token_ns=request.last_token_ns,
                    cached_prompt_tokens=request.cached_prompt_tokens,
                    num_preemptions=request.num_preemptions,
                    num_drafted=request.num_drafted,
                    num_accepted=request.num_accepted,
                )
            )

    def _statistics(self, batch: ScheduledBatch, verdicts: list[Verdict], duration_seconds: float) -> StepStatistics:
        pool = self._scheduler.cache.pool
        return StepStatistics(
            step=self._num_steps,
            duration_seconds=duration_seconds,
            num_running=len(self._scheduler.running),
            num_waiting=self._num_waiting,
            num_prefill_tokens=batch.num_prefill_tokens,
            num_decode_tokens=batch.num_decode_tokens,
            blocks_total=pool.num_blocks,
            blocks_used=pool.num_used,
            blocks_cached=pool.num_cached,
            num_preemptions_total=self._scheduler.num_preemptions,
            outstanding_tokens=self._scheduler.num_outstanding_tokens,
            num_drafted=sum(verdict.draft.length for verdict in verdicts),
            num_accepted=sum(verdict.num_accepted for verdict in verdicts),
            draft_seconds=self._speculation.draft_seconds if batch.num_draft_places else 0.0,
        )


def by_sequence(taken: list[Taken]) -> list[tuple[Sequence, list[SampledToken], str | None]]:
    """The tokens of each sequence in this step, and why the last of them was its last."""
    grouped = []
    for _, own in groupby(taken, key=lambda one: id(one[0].sequence)):
        tokens, reasons = zip(*own, strict=True)
        grouped.append((tokens[0].sequence, list(tokens), reasons[-1]))
    return grouped


def leaders(request: RequestProgress) -> list[Sequence]:
    """The request's sequences, those with an equal prompt and no output yet gathered behind their first."""
    by_prompt: dict[tuple[int, ...], Sequence] = {}
    first: list[Sequence] = []
    for sequence in request.sequences.values():
        key = tuple(sequence.token_ids)
        if sequence.num_output_tokens == 0 and key in by_prompt:
            by_prompt[key].followers.append(sequence)
            continue
        if sequence.num_output_tokens == 0:
            by_prompt[key] = sequence
        first.append(sequence)
    return first


def _mark_scheduled(batch: ScheduledBatch, now_ns: int) -> None:
    for item in batch.items:
        item.sequence.request.scheduled_ns = item.sequence.request.scheduled_ns or now_ns
