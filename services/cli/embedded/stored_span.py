"""A span as the laptop stack keeps it, and how it is read from OTLP protobuf. Refuses to know files and sockets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

REQUEST_ID_ATTRIBUTE = "penstock.request.id"

AttributeValue = str | int | float | bool | list["AttributeValue"] | None


class NotTraces(ValueError):
    """The bytes are no OTLP trace export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpan:
    """`parent_id` is empty for a root. `kind` and `status` are OTLP's words in lower case."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    instance: str
    kind: str
    start_ns: int
    end_ns: int
    status: str = "unset"
    status_message: str = ""
    attributes: dict[str, AttributeValue] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e6

    @property
    def request_id(self) -> str | None:
        value = self.attributes.get(REQUEST_ID_ATTRIBUTE)
        return None if value is None else str(value)


def decode_spans(body: bytes) -> list[StoredSpan]:
    """Every span of an `ExportTraceServiceRequest`. Raises `NotTraces`."""
    try:
        export = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise NotTraces(str(error)) from None
    return list(_spans(export))


def _spans(export: ExportTraceServiceRequest) -> Iterator[StoredSpan]:
    for resource_spans in export.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        service = str(resource.get("service.name", "unknown"))
        instance = str(resource.get("service.instance.id", ""))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _stored(span, service, instance)


def _stored(span: Span, service: str, instance: str) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=service,
        instance=instance,
        kind=_word(Span.SpanKind.Name, span.kind, "SPAN_KIND_"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=_word(Status.StatusCode.Name, span.status.code, "STATUS_CODE_"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
    )


def _word(name_of: object, number: int, prefix: str) -> str:
    try:
        return str(name_of(number)).removeprefix(prefix).lower()  # type: ignore[operator]
    except ValueError:
        return f"unknown-{number}"


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return str(_attributes(value.kvlist_value.values))
        case "bytes_value":
            return value.bytes_value.hex()
        case which:
            plain: AttributeValue = getattr(value, which)
            return plain
