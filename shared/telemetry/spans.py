"""The names of our spans and attributes, and how a span is made. The only module that spells them.

OpenTelemetry's semantic conventions for messaging and generative AI are young: their Python constants are renamed or
deprecated from release to release, so the names live here as text, checked against the conventions of 2026-11.
Refuses to know exporters and sampling (`setup.py`) and headers (`propagation.py`).
"""

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import Tracer as RecordingTracer
from opentelemetry.trace import NoOpTracer, Span, SpanContext, SpanKind, Status, StatusCode, Tracer, get_current_span

# --- span names; one request is one trace. HTTP server spans are called "<method> <route>".
PUBLISH_REQUEST = "publish inference.requests"
QUEUE_WAIT = "queue wait"
PROCESS_REQUEST = "process inference.requests"
INTAKE = "intake"
PREFILL = "prefill"
DECODE = "decode"
PUBLISH_RESULT = "publish inference.results"
STREAM = "stream"
REASSIGN = "reassign"

# --- ours
REQUEST_ID = "penstock.request.id"
"""On every span of a request: the span store finds the trace by it."""
POOL = "penstock.pool"
LANE = "penstock.lane"
TENANT = "penstock.tenant"
OUTCOME = "penstock.outcome"
ATTEMPT = "penstock.attempt"
WORKER_ID = "penstock.worker.id"
INCARNATION = "penstock.worker.incarnation"
RESUMED_TOKENS = "penstock.resumed_tokens"
PREEMPTIONS = "penstock.preemptions"
DRAFTED_TOKENS = "penstock.drafted_tokens"
ACCEPTED_TOKENS = "penstock.accepted_tokens"
"""Of the drafted ones."""

# --- semantic conventions: messaging
MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_DESTINATION_PARTITION = "messaging.destination.partition.id"
MESSAGING_CONSUMER_GROUP = "messaging.consumer.group.name"
MESSAGING_KAFKA_OFFSET = "messaging.kafka.offset"

# --- semantic conventions: generative AI
GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P = "gen_ai.request.top_p"
GEN_AI_REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
GEN_AI_REQUEST_SEED = "gen_ai.request.seed"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

# --- semantic conventions: HTTP and errors
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
ERROR_TYPE = "error.type"

AttributeValue = str | int | float | bool | list[str]
Attributes = Mapping[str, AttributeValue]


class _Active:
    """The tracer of the running service. `Telemetry` sets it; before that spans cost next to nothing."""

    tracer: Tracer = NoOpTracer()


def tracer() -> Tracer:
    """Ask each time instead of keeping it: `Telemetry` may start after a module is imported."""
    return _Active.tracer


def use_tracer(replacement: Tracer) -> Tracer:
    """Put another tracer in place and return the one before. For `Telemetry` and for tests."""
    before, _Active.tracer = _Active.tracer, replacement
    return before


def record_span(
    name: str,
    parent_context: Context | None,
    start_ns: int,
    end_ns: int,
    attributes: Attributes | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    status: Status | None = None,
) -> None:
    """A span of something that is already over, with its own times (Unix nanoseconds).

    A clock that went backwards in between gives a span of no length rather than a negative one.
    """
    active, end_ns = tracer(), max(start_ns, end_ns)
    parent = get_current_span(parent_context).get_span_context()
    if isinstance(active, RecordingTracer) and parent.is_valid:
        if parent.trace_flags.sampled:
            _hand_over(active, parent, name, start_ns, end_ns, attributes, kind, status)
        return
    span = active.start_span(name, context=parent_context, kind=kind, attributes=attributes, start_time=start_ns)
    if status is not None:
        span.set_status(status)
    span.end(end_time=end_ns)


def _hand_over(
    active: RecordingTracer,
    parent: SpanContext,
    name: str,
    start_ns: int,
    end_ns: int,
    attributes: Attributes | None,
    kind: SpanKind,
    status: Status | None,
) -> None:
    """Nothing can happen to it any more, so it needs none of what an open span has (locks, limits, a lifetime), which
    is most of its price; whether it is kept, its parent has decided."""
    context = SpanContext(
        parent.trace_id,
        active.id_generator.generate_span_id(),
        is_remote=False,
        trace_flags=parent.trace_flags,
        trace_state=parent.trace_state,
    )
    active.span_processor.on_end(
        ReadableSpan(
            name,
            context,
            parent,
            active.resource,
            attributes,
            kind=kind,
            status=status or Status(),
            start_time=start_ns,
            end_time=end_ns,
        )
    )


def exemplar_of(span: Span | None) -> dict[str, str] | None:
    """What ties a measurement to the trace it was made in; None where nobody keeps that trace.

    Prometheus stores it beside the bucket when it scrapes OpenMetrics; Grafana links it to Jaeger.
    """
    if span is None or not span.is_recording():
        return None
    return {"trace_id": f"{span.get_span_context().trace_id:032x}"}


def set_error(span: Span, code: str, message: str) -> None:
    """Mark a span failed, with the code of the error class as `error.type`."""
    if span.is_recording():
        span.set_attribute(ERROR_TYPE, code)
        span.set_status(Status(StatusCode.ERROR, message))


def messaging_attributes(
    operation: str,
    topic: str,
    *,
    partition: int | None = None,
    offset: int | None = None,
    group: str | None = None,
) -> dict[str, AttributeValue]:
    """Attributes of a span that sends (`send`), receives (`receive`) or processes (`process`) a record."""
    attributes: dict[str, AttributeValue] = {
        MESSAGING_SYSTEM: "kafka",
        MESSAGING_OPERATION_NAME: operation,
        MESSAGING_OPERATION_TYPE: operation,
        MESSAGING_DESTINATION_NAME: topic,
    }
    if partition is not None:
        attributes[MESSAGING_DESTINATION_PARTITION] = str(partition)
    if offset is not None:
        attributes[MESSAGING_KAFKA_OFFSET] = offset
    if group is not None:
        attributes[MESSAGING_CONSUMER_GROUP] = group
    return attributes
