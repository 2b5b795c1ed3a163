"""One message of each kind with every field away from its default; their bytes are in tests/golden/messages.json."""

from shared.contracts import api_key_codec, fleet_codec, outcome_codec, request_codec
from shared.contracts.api_keys import ApiKey
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
from shared.contracts.identifiers import Incarnation, RequestId, WorkerId
from shared.contracts.requests import Cancellation, ChatMessage, InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.tools import Tool, ToolCall, ToolChoice

_ID = RequestId("0123456789abcdef0123456789abcdef")

CHAT = InferenceRequest(
    kind=RequestKind.CHAT,
    model="smollm2",
    messages=(
        ChatMessage(
            role="user",
            content="Grüße, 世界",
            name="anna",
            tool_calls=(ToolCall(id="call_1", name="look_up", arguments='{"word": "世界"}'),),
            tool_call_id="call_0",
        ),
    ),
    sampling=SamplingParameters(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        frequency_penalty=-0.5,
        presence_penalty=0.25,
        seed=42,
        n=2,
        max_tokens=64,
        min_tokens=3,
        stop=("\n\n", "END"),
        stop_token_ids=(2, 7),
        ignore_eos=True,
        logprobs=4,
        logit_bias=((5, -100.0), (300, 2.5)),
    ),
    has_own_seed=True,
    stream=True,
    include_usage=True,
    return_token_ids=True,
    echo=True,
    best_of=3,
    grammar=Grammar(kind=GrammarKind.REGEX, text="[a-z]+", field="structured_outputs"),
    tools=(Tool(name="look_up", description="A word's meaning", parameters='{"type": "object"}'),),
    tool_choice=ToolChoice.NAMED,
    tool_choice_name="look_up",
    parallel_tool_calls=False,
    speculation="prompt-lookup",
    prediction="a word of the world",
)
COMPLETION = InferenceRequest(
    kind=RequestKind.COMPLETION,
    model=None,
    prompts=(Prompt(text="Once"), Prompt(token_ids=(1, 2, 300))),
    sampling=SamplingParameters(),
)
OUTCOME = InferenceOutcome(
    request_id=_ID,
    outcome=Outcome.FAILED,
    kind=RequestKind.COMPLETION,
    model="smollm2",
    created_seconds=1_764_000_000,
    choices=(
        ChoiceResult(
            index=1,
            text="upon",
            token_ids=(5, 6),
            finish_reason=FinishReason.LENGTH,
            logprobs=(TokenLogprob(token_id=5, text="up", logprob=-0.5, top=((5, "up", -0.5), (9, "on", -2.0))),),
            prompt_logprobs=(
                TokenLogprob(token_id=8, text="so", logprob=-0.25, top=((7, "ho", -0.125),)),
                TokenLogprob(token_id=7, text="first", logprob=None),
            ),
            tool_calls=(ToolCall(id="call_2", name="look_up", arguments="{}"),),
        ),
    ),
    usage=Usage(
        prompt_tokens=7,
        completion_tokens=2,
        cached_tokens=4,
        accepted_prediction_tokens=1,
        rejected_prediction_tokens=3,
    ),
    error=ErrorBody(message="too long", type="invalid_request_error", code="invalid_request", param="prompt"),
    return_token_ids=True,
    wants_logprobs=True,
)
CANCELLATION = Cancellation(request_id=_ID, tenant="acme", reason="changed my mind")
HEARTBEAT = Heartbeat(
    worker_id=WorkerId("default-0"),
    incarnation=Incarnation("default-0.abc"),
    sequence_number=7,
    sent_at_ms=1_764_000_000_500,
    state=WorkerState.READY,
    pool="default",
    models=("smollm2",),
    fingerprint="f00d",
    max_model_tokens=2_048,
    partitions=(("inference.requests.default.interactive", 3),),
    running_requests=2,
    waiting_requests=1,
    max_running_requests=32,
    kv_blocks_total=1_000,
    kv_blocks_free=900,
    kv_block_tokens=16,
    output_tokens_per_second=99.5,
    outstanding_tokens=128,
    last_poll_age_ms=12,
    oldest_unfinished_age_ms=340,
    device="cpu",
    dtype="bfloat16",
    version="0.1.0",
    queued_requests=3,
    drained_tokens_per_second=120.25,
    lag_records=17,
    bulk_lag_records=1_000,
    step_seconds=0.03125,
    is_intake_paused=True,
    is_quarantined=True,
    service_levels=(
        ServiceLevelCount(
            lane="interactive",
            tenant="acme",
            requests=100,
            failed=1,
            first_tokens=99,
            late_first_tokens=2,
            streams=90,
            slow_streams=3,
        ),
    ),
    weights="int4-g64",
    kv_cache="int8",
    speculation="quantspec",
    speculation_methods=("none", "prompt-lookup", "quantspec"),
)
FLEET_EVENT = FleetEvent(
    kind=FleetEventKind.WORKER_LOST,
    worker_id=WorkerId("default-0"),
    incarnation=Incarnation("default-0.abc"),
    occurred_at_ms=1_764_000_001_000,
    detail="lease ended",
)
FLEET_COMMAND = FleetCommand(
    kind=FleetCommandKind.DRAIN, worker_id=WorkerId("default-0"), issued_at_ms=5, reason="upgrade"
)


def _encode_cancellation(value: Cancellation) -> bytes:
    return request_codec.encode_cancellation(value.request_id, value.tenant, value.reason)


API_KEY = ApiKey(
    key_id="0a1b2c3d",
    digest=bytes(range(32)),
    tenant="alpha",
    models=("smollm2",),
    label="ci",
    created_at_ms=1_700_000_000_000,
    revoked_at_ms=1_700_000_100_000,
    requests_per_minute=600,
    tokens_per_minute=100_000,
)

GOLDEN = {
    "InferenceRequested chat": (CHAT, request_codec.encode_request, request_codec.decode_request),
    "InferenceRequested completion": (COMPLETION, request_codec.encode_request, request_codec.decode_request),
    "InferenceOutcome": (OUTCOME, outcome_codec.encode_outcome, outcome_codec.decode_outcome),
    "Cancellation": (CANCELLATION, _encode_cancellation, request_codec.decode_cancellation),
    "Heartbeat": (HEARTBEAT, fleet_codec.encode_heartbeat, fleet_codec.decode_heartbeat),
    "FleetEvent": (FLEET_EVENT, fleet_codec.encode_fleet_event, fleet_codec.decode_fleet_event),
    "FleetCommand": (FLEET_COMMAND, fleet_codec.encode_fleet_command, fleet_codec.decode_fleet_command),
    "ApiKey": (API_KEY, api_key_codec.encode_api_key, api_key_codec.decode_api_key),
}
