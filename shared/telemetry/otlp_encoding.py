"""Finished spans as the bytes of an OTLP `ExportTraceServiceRequest`, written field by field.

The SDK's own encoder builds a protobuf object for every attribute of every span, which is most of what a trace costs.
Field numbers are those of opentelemetry-proto 1.x (`trace.proto`, `common.proto`), which may only grow; a test holds
the bytes against the SDK's encoder. Refuses to know where they go, and span events: no span of ours has any.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState
from opentelemetry.util.types import AnyValue, AttributeValue

_PAIRS_REMEMBERED = 4_096
_LONGEST_REMEMBERED = 128
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200

# A tag is a field's number times eight, plus the wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
_SPAN_IDS = struct.Struct(">2s16s2s8s")
_SPAN_TIMES = struct.Struct("<BBBQBQ")
_SPAN_FLAGS = struct.Struct("<2sI")
_DOUBLE = struct.Struct("<Bd")


def encode_export(spans: Sequence[ReadableSpan], resource: Resource, scope: InstrumentationScope) -> bytes:
    """All of one process, so that one resource and one scope stand for them all."""
    scoped = _field(0x0A, _text(0x0A, scope.name) + _text(0x12, scope.version or ""))
    scoped += b"".join(_field(0x12, _span(span)) for span in spans)
    return _field(0x0A, _field(0x0A, _pairs(0x0A, resource.attributes)) + _field(0x12, scoped))


def _span(span: ReadableSpan) -> bytes:
    context, parent = span.context, span.parent
    assert context is not None, "a finished span has its own context"
    parts = [_ids(context)]
    if context.trace_state:
        parts.append(_trace_state(context.trace_state))
    if parent is not None:
        parts.append(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    parts.append(_text(0x2A, span.name))
    # The API numbers kinds from internal = 0, the wire from unspecified = 0.
    parts.append(_SPAN_TIMES.pack(0x30, span.kind.value + 1, 0x39, span.start_time or 0, 0x41, span.end_time or 0))
    if span.attributes:
        parts.append(_pairs(0x4A, span.attributes))
    parts += [_field(0x6A, _link(link)) for link in span.links]
    parts.append(_status(span.status))
    parts.append(_SPAN_FLAGS.pack(b"\x85\x01", _flags(parent)))
    return b"".join(parts)


def _ids(context: SpanContext) -> bytes:
    return _SPAN_IDS.pack(
        b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")
    )


def _trace_state(state: TraceState) -> bytes:
    return _text(0x1A, ",".join(f"{key}={value}" for key, value in state.items()))


def _link(link: Link) -> bytes:
    attributes = _pairs(0x22, link.attributes) if link.attributes else b""
    return _ids(link.context) + attributes + b"\x35" + _flags(link.context).to_bytes(4, "little")


def _flags(context: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if context is not None and context.is_remote else _HAS_IS_REMOTE


def _status(status: Status) -> bytes:
    if status.is_unset:
        return b"\x7a\x00"
    return _field(0x7A, _text(0x12, status.description or "") + bytes((0x18, status.status_code.value)))


def _pairs(tag: int, attributes: Mapping[str, AttributeValue]) -> bytes:
    return b"".join(
        _remembered_pair(tag, key, value)
        if isinstance(value, str) and len(value) <= _LONGEST_REMEMBERED
        else _pair(tag, key, value)
        for key, value in attributes.items()
    )


def _pair(tag: int, key: str, value: AttributeValue) -> bytes:
    return _field(tag, _text(0x0A, key) + _field(0x12, _value(value)))


@lru_cache(maxsize=_PAIRS_REMEMBERED)
def _remembered_pair(tag: int, key: str, value: str) -> bytes:
    """A request's id is on each of its spans, a pool's name on those of every request."""
    return _pair(tag, key, value)


def _value(value: AnyValue) -> bytes:
    match value:
        case bool():
            return bytes((0x10, value))
        case str():
            return _field(0x0A, value.encode(errors="replace"))
        case int():
            return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            return _DOUBLE.pack(0x21, value)
        case list() | tuple():
            return _field(0x2A, b"".join(_field(0x0A, _value(each)) for each in value))
        case _:
            return _value(str(value))


def _text(tag: int, text: str) -> bytes:
    """Half a surrogate pair becomes a question mark: it must not cost the batch it is in."""
    return _field(tag, text.encode(errors="replace")) if text else b""


def _field(tag: int, body: bytes) -> bytes:
    size = len(body)
    return bytes((tag, size)) + body if size < 0x80 else bytes((tag,)) + _varint(size) + body


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
