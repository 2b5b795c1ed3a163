"""Hypothesis strategies and small builders for the contracts: any legal value of each message."""

import json
from dataclasses import dataclass

from hypothesis import strategies as st

from shared.contracts.events import (
    ChoiceResult,
    ErrorBody,
    FinishReason,
    InferenceOutcome,
    Outcome,
    TokenLogprob,
    Usage,
)
from shared.contracts.fleet import (
    FleetCommand,
    FleetCommandKind,
    FleetEvent,
    FleetEventKind,
    Heartbeat,
    ServiceLevelCount,
    WorkerState,
)
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.requests import Cancellation, ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolCall, ToolChoice
from shared.openai import limits

MEDIUM = 2**31 - 1
LARGE = 2**53

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
counts = st.integers(0, MEDIUM)
instants = st.integers(0, LARGE)
token_ids = st.lists(counts, max_size=5).map(tuple)
request_ids = st.text("0123456789abcdef", min_size=32, max_size=32)
header_names = st.text(max_size=12) | st.sampled_from(
    [
        "content-type", "ce_id", "ce_source", "ce_type", "traceparent", "tracestate", "penstock-deadline-ms",
        "penstock-priority", "penstock-tenant", "penstock-reply-to", "penstock-endpoint",
        "penstock-request-id", "penstock-lane", "penstock-attempt", "penstock-source-topic",
        "penstock-source-partition", "penstock-source-offset", "penstock-source-timestamp-ms",
        "penstock-source-key", "Content-Type",
    ]
)  # fmt: skip
header_values = (
    st.none()
    | st.binary(max_size=40)
    | st.sampled_from(
        [
            b"1",
            b"-1",
            b"99999999999999999999",
            b"application/protobuf",
            b"application/json",
            b"chat",
            b"x" * 300,
        ]
    )
)
headers = st.lists(st.tuples(header_names, header_values), max_size=12).map(tuple)


def floats(low: float, high: float, *, exclude_min: bool = False) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=exclude_min, allow_nan=False)


def sampling(kind: RequestKind) -> st.SearchStrategy[SamplingParameters]:
    most_logprobs = limits.MAX_CHAT_LOGPROBS if kind is RequestKind.CHAT else limits.MAX_COMPLETION_LOGPROBS
    return st.builds(
        SamplingParameters,
        temperature=floats(0, 2),
        top_p=floats(0, 1, exclude_min=True),
        top_k=counts,
        min_p=floats(0, 1),
        repetition_penalty=floats(0.01, 100),
        frequency_penalty=floats(-2, 2),
        presence_penalty=floats(-2, 2),
        seed=st.integers(0, limits.MAX_SEED),
        n=st.integers(1, 8),
        max_tokens=st.none() | st.integers(1_000, MEDIUM),
        min_tokens=st.integers(0, 1_000),
        stop=st.lists(names, max_size=4).map(tuple),
        stop_token_ids=token_ids,
        ignore_eos=st.booleans(),
        logprobs=st.none() | st.integers(0, most_logprobs),
        logit_bias=st.dictionaries(counts, floats(-100, 100), max_size=3).map(lambda bias: tuple(sorted(bias.items()))),
    )


json_objects = st.dictionaries(texts, st.integers() | texts, max_size=3).map(json.dumps)
tool_calls = st.builds(ToolCall, id=texts, name=names, arguments=json_objects)
grammars = st.builds(
    Grammar,
    kind=st.sampled_from([kind for kind in GrammarKind if kind is not GrammarKind.CHOICE]),
    text=texts,
    field=st.sampled_from(["response_format", "structured_outputs", "grammar"]),
)


@st.composite
def tool_fields(draw: st.DrawFn) -> dict[str, object]:
    """Tools and a choice among them; a grammar only where no tool may be called."""
    tool = st.builds(Tool, name=names, description=st.none() | texts, parameters=st.none() | json_objects)
    tools = tuple(draw(st.lists(tool, max_size=3, unique_by=lambda one: one.name)))
    choice = draw(st.sampled_from(ToolChoice)) if tools else ToolChoice.AUTO
    has_grammar = (not tools or choice is ToolChoice.NONE) and draw(st.booleans())
    return {
        "tools": tools,
        "tool_choice": choice,
        "tool_choice_name": draw(st.sampled_from(tools)).name if choice is ToolChoice.NAMED else None,
        "parallel_tool_calls": draw(st.booleans()),
        "speculation": draw(st.none() | st.sampled_from(["none", "prompt-lookup"])),
        "prediction": draw(st.none() | st.text(max_size=20)),
        "grammar": draw(grammars) if has_grammar else None,
    }


@st.composite
def requests(draw: st.DrawFn) -> InferenceRequest:
    kind = draw(st.sampled_from(RequestKind))
    is_chat = kind is RequestKind.CHAT
    plain = st.builds(
        ChatMessage,
        role=st.sampled_from(limits.ROLES),
        content=texts,
        name=st.none() | texts,
        tool_call_id=st.none() | texts,
    )
    calling = st.builds(
        ChatMessage, role=st.just("assistant"), content=texts, tool_calls=st.lists(tool_calls, max_size=2).map(tuple)
    )
    message = plain | calling
    prompt = names.map(lambda text: Prompt(text=text)) | st.lists(counts, min_size=1, max_size=5).map(
        lambda ids: Prompt(token_ids=tuple(ids))
    )
    has_own_seed = draw(st.booleans())
    chosen = draw(sampling(kind))
    stream = draw(st.booleans())
    if not has_own_seed:
        chosen = SamplingParameters(**{**_fields(chosen), "seed": 0})
    prompts = () if is_chat else tuple(draw(st.lists(prompt, min_size=1, max_size=4)))
    most = 0 if is_chat else chosen.n if stream else limits.MAX_CHOICES // len(prompts)
    best_of = draw(st.none() | st.integers(chosen.n, most)) if most >= chosen.n else None
    return InferenceRequest(
        kind=kind,
        model=draw(st.none() | names),
        messages=tuple(draw(st.lists(message, min_size=1, max_size=4))) if is_chat else (),
        prompts=prompts,
        sampling=chosen,
        has_own_seed=has_own_seed,
        stream=stream,
        include_usage=stream and draw(st.booleans()),
        return_token_ids=draw(st.booleans()),
        echo=not is_chat and draw(st.booleans()),
        best_of=best_of,
        **(draw(tool_fields()) if is_chat else {"grammar": draw(st.none() | grammars)}),
    )


def _fields(value: SamplingParameters) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


logprobs = st.builds(
    TokenLogprob,
    token_id=counts,
    text=texts,
    logprob=floats(-100, 0),
    top=st.lists(st.tuples(counts, texts, floats(-100, 0)), max_size=3).map(tuple),
)
choices = st.builds(
    ChoiceResult,
    index=st.integers(0, 127),
    text=texts,
    token_ids=token_ids,
    finish_reason=st.none() | st.sampled_from(FinishReason),
    logprobs=st.none() | st.lists(logprobs, max_size=3).map(tuple),
    prompt_logprobs=st.none() | st.lists(logprobs, max_size=3).map(tuple),
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
)
errors = st.builds(ErrorBody, message=texts, type=texts, code=texts, param=st.none() | texts)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    completion_tokens=counts,
    cached_tokens=counts,
    accepted_prediction_tokens=counts,
    rejected_prediction_tokens=counts,
)
outcomes = st.builds(
    InferenceOutcome,
    request_id=request_ids,
    outcome=st.sampled_from(Outcome),
    kind=st.sampled_from(RequestKind),
    model=texts,
    created_seconds=instants,
    choices=st.lists(choices, max_size=3).map(tuple),
    usage=st.none() | usages,
    error=errors,
    return_token_ids=st.booleans(),
    wants_logprobs=st.booleans(),
)
cancellations = st.builds(Cancellation, request_id=request_ids, tenant=st.none() | texts, reason=texts)
heartbeats = st.builds(
    Heartbeat,
    worker_id=texts,
    incarnation=texts,
    sequence_number=instants,
    sent_at_ms=instants,
    state=st.sampled_from(WorkerState),
    pool=texts,
    models=st.lists(texts, max_size=3).map(tuple),
    fingerprint=texts,
    max_model_tokens=instants,
    partitions=st.lists(st.tuples(texts, st.integers(0, 10_000)), max_size=5).map(tuple),
    running_requests=instants,
    waiting_requests=instants,
    max_running_requests=instants,
    kv_blocks_total=instants,
    kv_blocks_free=instants,
    kv_block_tokens=instants,
    output_tokens_per_second=floats(0, 1e9),
    outstanding_tokens=instants,
    last_poll_age_ms=instants,
    oldest_unfinished_age_ms=instants,
    device=texts,
    dtype=texts,
    version=texts,
    queued_requests=instants,
    drained_tokens_per_second=floats(0, 1e9),
    lag_records=instants,
    bulk_lag_records=instants,
    step_seconds=floats(0, 1e3),
    is_intake_paused=st.booleans(),
    is_quarantined=st.booleans(),
    service_levels=st.lists(
        st.builds(
            ServiceLevelCount,
            lane=texts,
            tenant=texts,
            requests=instants,
            failed=instants,
            first_tokens=instants,
            late_first_tokens=instants,
            streams=instants,
            slow_streams=instants,
        ),
        max_size=3,
    ).map(tuple),
    weights=texts,
    kv_cache=texts,
    speculation=texts,
    speculation_methods=st.lists(texts, max_size=3).map(tuple),
)
fleet_events = st.builds(
    FleetEvent,
    kind=st.sampled_from(FleetEventKind),
    worker_id=texts,
    incarnation=st.none() | texts,
    occurred_at_ms=instants,
    detail=texts,
)
fleet_commands = st.builds(
    FleetCommand,
    kind=st.sampled_from(FleetCommandKind),
    worker_id=texts,
    issued_at_ms=instants,
    reason=texts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRecord:
    """What `read_envelope` reads of a Kafka record."""

    topic: str = "inference.requests.default.interactive"
    partition: int = 3
    offset: int = 41
    timestamp_ms: int = 1_764_000_000_000
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes | None], ...] = ()
