"""What goes into the engine and what comes out of it: the messages on the socket between shell and engine process.

All are frozen and hold numbers, strings and lists, so that msgpack carries them unchanged; what comes with every
step is a msgspec struct, made and read several times faster than a dataclass. The engine speaks tokens: no text, no
topics, no traces (a trace context passes through untouched).
"""

from dataclasses import dataclass, field

import msgspec

from shared.contracts.grammar import Grammar
from shared.contracts.sampling import SamplingParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceStart:
    """Where one choice begins: with the tokens it already has (after a failover), none for a fresh request."""

    index: int
    prompt_token_ids: list[int]
    output_token_ids: list[int] = field(default_factory=list)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Run these choices. Choices with equal prompts share the prompt's KV blocks.

    `eos_token_ids` end a choice with "stop" unless `sampling.ignore_eos`; so do `sampling.stop_token_ids`. Stop
    *strings* are the shell's: it cancels the choice. `max_tokens` of `sampling` counts all output tokens of a
    choice, those it starts with included; the shell resolves None before submitting. `order` sorts waiting
    requests: (lane, priority, deadline, arrival), smallest first. `cache_salt` names the tenant: it separates
    prefixes, and of equal lane and priority the tenant that was served least goes next.
    `prompt_logprobs`: the first event of each choice scores its prompt, as `sampling.logprobs` says. `grammar` holds
    every choice; the tokens that a choice starts with are part of its word. `speculation` is one of the names that
    `EngineReady` tells, None its default; `predicted_token_ids`: the output that the caller expects.
    """

    request_id: str
    choices: list[ChoiceStart]
    sampling: SamplingParameters
    eos_token_ids: list[int]
    order: tuple[int, int, int, int] = (0, 0, 0, 0)
    cache_salt: str = ""
    traceparent: str | None = None
    prompt_logprobs: bool = False
    grammar: Grammar | None = None
    speculation: str | None = None
    predicted_token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop one choice, or all when `choice` is None. Blocks are free when the next step begins. Unknown: no-op."""

    request_id: str
    choice: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Finish nothing, leave at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobEntry:
    logprob: float
    top_token_ids: list[int]
    top_logprobs: list[float]


class TokensSampled(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """New output tokens of one choice; `position` is the output index of the first."""

    request_id: str
    choice: int
    position: int
    token_ids: list[int]
    logprobs: list[LogprobEntry] | None = None
    finish_reason: str | None = None
    """`stop` | `length`, on the choice's last event."""
    prompt_logprobs: list[LogprobEntry] | None = None
    """Of the prompt's tokens from the second on; on the first event of a choice, if asked for."""
    draft_token_ids: list[int] | None = None
    """What was proposed for these positions, if anything was; the first `num_accepted` of them stand."""
    num_accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimings:
    """Unix nanoseconds, for the shell's spans. Sent with the event that ends a request's last choice."""

    request_id: str
    submitted_ns: int
    scheduled_ns: int
    first_token_ns: int
    last_token_ns: int
    cached_prompt_tokens: int
    num_preemptions: int
    num_drafted: int = 0
    num_accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRejected:
    """The engine cannot run it; `code` is one of `shared.contracts.errors`. Also sent when logits are NaN."""

    request_id: str
    code: str
    message: str
    param: str | None = None


class StepStatistics(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One step in numbers; what the shell turns into metrics and heartbeats."""

    step: int
    duration_seconds: float
    num_running: int
    num_waiting: int
    num_prefill_tokens: int
    num_decode_tokens: int
    blocks_total: int
    blocks_used: int
    blocks_cached: int
    num_preemptions_total: int
    outstanding_tokens: int
    num_drafted: int = 0
    num_accepted: int = 0
    draft_seconds: float = 0.0
    """Part of `duration_seconds`."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """Everything one step produced, in one message."""

    tokens: list[TokensSampled]
    timings: list[RequestTimings]
    rejected: list[RequestRejected]
    statistics: StepStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady:
    """The engine's first message: what it loaded. `fingerprint` names weights, quantization and numerics.

    `weights`: what most of them are kept in, `int4-g64-asym` or the dtype.
    `kv_cache_tokens`: context that the cache holds when it is full; `num_full_sequences`: of the longest length, at
    once. `attention_note` says why `auto` did not take the fastest attention backend, if it did not.
    `num_decode_graphs`: batch sizes whose decode step is recorded. `resident_bytes`: of the process after loading,
    most of it weights: a cache on a CPU takes memory as blocks are written. `speculation` is what requests get that do
    not say, `speculation_methods` what they may ask for. `num_threads`: of a CPU.
    """

    model_name: str
    fingerprint: str
    vocabulary_size: int
    max_model_tokens: int
    block_size_tokens: int
    num_kv_blocks: int
    kv_cache_tokens: int
    num_full_sequences: int
    max_running_sequences: int
    device: str
    dtype: str
    attention_backend: str
    load_seconds: float
    attention_note: str = ""
    num_decode_graphs: int = 0
    quantization: str = "none"
    quantization_note: str = ""
    weights: str = ""
    kv_cache: str = "16bit"
    speculation: str = "none"
    speculation_methods: list[str] = field(default_factory=list)
    process_id: int = 0
    resident_bytes: int = 0
    num_threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDied:
    """The engine's last words when it could still speak: why it cannot go on.

    `is_hopeless`: a setting or a file is at fault, another start would end the same way.
    """

    message: str
    is_hopeless: bool = False
