"""An engine without a model: what the platform costs when tokens are free, and a deterministic stand-in for tests.

Each token is a hash of every token before it, the choice's seed and the position, so a continuation after a
failover gives the same tokens as an undisturbed run, and any lost or repeated token changes all that follow. It
speaks the same messages as the real engine and replaces nothing but the engine process's inside.
"""

import time
from collections import deque
from dataclasses import dataclass

from services.worker.engine.events import (
    Cancel,
    ChoiceStart,
    EngineReady,
    RequestRejected,
    RequestTimings,
    StepResult,
    StepStatistics,
    Submit,
    TokensSampled,
)
from services.worker.null_prefix_cache import BLOCK_TOKENS, NullPrefixCache
from shared.contracts.errors import EngineFailed, InvalidRequest

_MASK = (1 << 64) - 1
_MULTIPLIER = 6364136223846793005
_MIX = 0x9E3779B97F4A7C15
_BLOCK_TOKENS = BLOCK_TOKENS
_STEPS_TO_FAILURE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NullEngineConfig:
    """`vocabulary` are the ids it may say; `step_ms` is how long a step pretends to take."""

    vocabulary: tuple[int, ...]
    model_name: str = "null"
    max_model_tokens: int = 8_192
    max_running_sequences: int = 256
    num_kv_blocks: int = 65_536
    step_ms: float = 0.0
    prefill_ms_per_token: float = 0.0
    """Of a prompt token that is not cached; it stops the whole batch for so long."""
    prefix_cache_blocks: int = 0
    """Blocks of prompts that are remembered, least recently used first out; 0: none."""
    fail_every: int = 0
    """So many-th submission fails by an error of ours after some steps; 0: none does."""


def absorb(state: int, token_id: int) -> int:
    """The running hash of a token sequence; order matters."""
    return ((state ^ (token_id + 1)) * _MULTIPLIER + _MIX) & _MASK


def token_at(state: int, seed: int, position: int, vocabulary: tuple[int, ...]) -> int:
    """The token that follows a sequence whose hash is `state`."""
    mixed = ((state ^ (seed & _MASK)) * _MIX + position * _MULTIPLIER) & _MASK
    return vocabulary[(mixed >> 33) % len(vocabulary)]


def _no_grammar(submit: Submit, field: str) -> RequestRejected:
    message = f"{field}: this engine has no model and holds its output to no grammar"
    return RequestRejected(request_id=submit.request_id, code=InvalidRequest.code, message=message, param=field)


class _NullChoice:
    """One running choice."""

    __slots__ = ("index", "num_output_tokens", "num_prompt_tokens", "prompt_token_ids", "request", "seed", "state")

    def __init__(self, request: "_NullRequest", start: ChoiceStart) -> None:
        self.request = request
        self.index = start.index
        self.seed = start.seed
        self.prompt_token_ids = start.prompt_token_ids
        self.num_prompt_tokens = len(start.prompt_token_ids)
        self.num_output_tokens = len(start.output_token_ids)
        state = 0
        for token_id in start.prompt_token_ids:
            state = absorb(state, token_id)
        for token_id in start.output_token_ids:
            state = absorb(state, token_id)
        self.state = state


class _NullRequest:
    """What the choices of one request share."""

    __slots__ = (
        "cache_salt",
        "choices",
        "ends",
        "first_token_ns",
        "max_tokens",
        "num_cached_tokens",
        "request_id",
        "scheduled_ns",
        "submitted_ns",
    )

    def __init__(self, submit: Submit, limit: int) -> None:
        self.request_id = submit.request_id
        self.cache_salt = submit.cache_salt
        self.num_cached_tokens = 0
        asked = submit.sampling.max_tokens
        self.max_tokens = limit if asked is None else asked
        eos = () if submit.sampling.ignore_eos else submit.eos_token_ids
        self.ends = frozenset((*eos, *submit.sampling.stop_token_ids))
        self.submitted_ns = time.time_ns()
        self.scheduled_ns = 0
        self.first_token_ns = 0
        self.choices = {start.index: _NullChoice(self, start) for start in submit.choices}


class NullEngine:
    """`submit`, `cancel`, `step`, as the real engine. One thread."""

    def __init__(self, config: NullEngineConfig) -> None:
        self._config = config
        self._waiting: deque[_NullRequest] = deque()
        self._running: dict[str, _NullRequest] = {}
        self._rejected: list[RequestRejected] = []
        self._num_submitted = 0
        self._steps_to_failure: dict[str, int] = {}
        self._num_sequences = 0
        self._step = 0
        self._has_news = False
        self._prefixes = NullPrefixCache(config.prefix_cache_blocks)

    @property
    def ready(self) -> EngineReady:
        config = self._config
        return EngineReady(
            model_name=config.model_name,
            fingerprint="null",
            vocabulary_size=max(config.vocabulary) + 1,
            max_model_tokens=config.max_model_tokens,
            block_size_tokens=_BLOCK_TOKENS,
            num_kv_blocks=config.num_kv_blocks,
            kv_cache_tokens=config.num_kv_blocks * _BLOCK_TOKENS,
            num_full_sequences=config.num_kv_blocks // -(-config.max_model_tokens // _BLOCK_TOKENS),
            max_running_sequences=config.max_running_sequences,
            device="none",
            dtype="none",
            attention_backend="none",
            load_seconds=0.0,
        )

    @property
    def has_work(self) -> bool:
        """Something to compute, or to tell: a rejection, the blocks that a cancellation freed."""
        return bool(self._running or self._waiting or self._rejected or self._has_news)

    def submit(self, submit: Submit) -> None:
        if submit.grammar is not None:
            self._rejected.append(_no_grammar(submit, submit.grammar.field))
            return
        self._num_submitted += 1
        if self._config.fail_every and self._num_submitted % self._config.fail_every == 0:
            self._steps_to_failure[submit.request_id] = _STEPS_TO_FAILURE
        self._waiting.append(_NullRequest(submit, self._config.max_model_tokens))

    def cancel(self, cancel: Cancel) -> None:
        self._has_news = True
        if cancel.choice is None:
            self._steps_to_failure.pop(cancel.request_id, None)
        request = self._running.get(cancel.request_id)
        if request is None:
            self._cancel_waiting(cancel)
            return
        gone = [cancel.choice] if cancel.choice is not None else list(request.choices)
        for index in gone:
            if request.choices.pop(index, None) is not None:
                self._num_sequences -= 1
        if not request.choices:
            del self._running[cancel.request_id]

    def _cancel_waiting(self, cancel: Cancel) -> None:
        for request in self._waiting:
            if request.request_id != cancel.request_id:
                continue
            if cancel.choice is None:
                request.choices.clear()
            else:
                request.choices.pop(cancel.choice, None)
        self._waiting = deque(request for request in self._waiting if request.choices)

    def step(self) -> StepResult:
        """One token for every running choice."""
        started = time.perf_counter()
        self._has_news = False
        if self._config.step_ms:
            time.sleep(self._config.step_ms / 1_000)
        num_prefill_tokens = self._admit()
        if num_prefill_tokens and self._config.prefill_ms_per_token:
            time.sleep(num_prefill_tokens * self._config.prefill_ms_per_token / 1_000)
        tokens: list[TokensSampled] = []
        timings: list[RequestTimings] = []
        for request in list(self._running.values()):
            if not self._fails_now(request.request_id):
                self._advance(request, tokens, timings)
        self._step += 1
        statistics = self._statistics(started, num_prefill_tokens, len(tokens))
        rejected, self._rejected = self._rejected, []
        return StepResult(tokens=tokens, timings=timings, rejected=rejected, statistics=statistics)

    def _fails_now(self, request_id: str) -> bool:
        left = self._steps_to_failure.pop(request_id, None)
        if left is None:
            return False
        if left:
            self._steps_to_failure[request_id] = left - 1
            return False
        self.cancel(Cancel(request_id=request_id))
        message = "the null engine fails so many-th requests, as it was told to"
        self._rejected.append(RequestRejected(request_id=request_id, code=EngineFailed.code, message=message))
        return True

    def _admit(self) -> int:
        admitted = 0
        limit = self._config.max_running_sequences
        while self._waiting:
            request = self._waiting[0]
            if self._running and self._num_sequences + len(request.choices) > limit:
                break
            self._waiting.popleft()
            request.scheduled_ns = time.time_ns()
            self._running[request.request_id] = request
            self._num_sequences += len(request.choices)
            prompt_tokens = sum(choice.num_prompt_tokens for choice in request.choices.values())
            request.num_cached_tokens = sum(
                self._prefixes.use(request.cache_salt, choice.prompt_token_ids) for choice in request.choices.values()
            )
            admitted += prompt_tokens - request.num_cached_tokens
        return admitted

    def _advance(self, request: _NullRequest, tokens: list[TokensSampled], timings: list[RequestTimings]) -> None:
        request_id = request.request_id
        for choice in list(request.choices.values()):
            event = self._sample(request, choice)
            tokens.append(event)
            if event.finish_reason is not None:
                del request.choices[choice.index]
                self._num_sequences -= 1
        if not request.first_token_ns:
            request.first_token_ns = time.time_ns()
        if request.choices:
            return
        del self._running[request_id]
        timings.append(
            RequestTimings(
                request_id=request_id,
                submitted_ns=request.submitted_ns,
                scheduled_ns=request.scheduled_ns,
                first_token_ns=request.first_token_ns,
                last_token_ns=time.time_ns(),
                cached_prompt_tokens=request.num_cached_tokens,
                num_preemptions=0,
            )
        )

    def _sample(self, request: _NullRequest, choice: _NullChoice) -> TokensSampled:
        position = choice.num_output_tokens
        if position >= request.max_tokens:
            return TokensSampled(
                request_id=request.request_id,
                choice=choice.index,
                position=position,
                token_ids=[],
                finish_reason="length",
            )
        token_id = token_at(choice.state, choice.seed, position, self._config.vocabulary)
        choice.state = absorb(choice.state, token_id)
        choice.num_output_tokens = position + 1
        reason = None
        if token_id in request.ends:
            reason = "stop"
        elif position + 1 >= request.max_tokens:
            reason = "length"
        return TokensSampled(
            request_id=request.request_id,
            choice=choice.index,
            position=position,
            token_ids=[token_id],
            finish_reason=reason,
        )

    def _statistics(self, started: float, num_prefill_tokens: int, num_decode_tokens: int) -> StepStatistics:
        used = self._num_sequences
        return StepStatistics(
            step=self._step,
            duration_seconds=time.perf_counter() - started,
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_prefill_tokens=num_prefill_tokens,
            num_decode_tokens=num_decode_tokens,
            blocks_total=self._config.num_kv_blocks,
            blocks_used=min(used, self._config.num_kv_blocks),
            blocks_cached=0,
            num_preemptions_total=0,
            outstanding_tokens=sum(
                request.max_tokens - choice.num_output_tokens
                for request in (*self._running.values(), *self._waiting)
                for choice in request.choices.values()
            ),
        )
