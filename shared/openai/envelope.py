"""Headers into a `RequestEnvelope` and back: identity, deadline, lane, route of the answer.

Refuses to know what is in a body. `read_envelope` never raises: whatever the headers are, there is an envelope to
answer with; what is wrong with them is its `problem`, which `decode_value` raises (DELIVERY lines 2 and 8).
Names are compared without case, null values are absent, of several values the last one counts.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from shared.contracts import headers as names_of
from shared.contracts.events import Outcome
from shared.contracts.identifiers import (
    RequestId,
    body_fingerprint,
    is_request_id,
    request_id_from_coordinates,
    request_id_from_event,
)
from shared.contracts.requests import (
    Coordinates,
    HeaderProblem,
    Lane,
    RequestEnvelope,
    RequestKind,
    WireFormat,
)
from shared.contracts.schema_version import OURS, UNVERSIONED, SchemaVersion, parse_version
from shared.contracts.topics import TopicNames

Headers = tuple[tuple[str, bytes | None], ...]

GATEWAY_SOURCE = "/penstock/gateway"

PRIORITY_LIMIT = 1_000
TENANT_LIMIT_CHARACTERS = 256
EARLIEST_DEADLINE_MS = 1_000_000_000_000
"""September 2001: a smaller number is a duration, or an instant in seconds."""
_LATEST_DEADLINE_MS = 1 << 53

_PROTOBUF_TYPES = frozenset({"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"})
_STRUCTURED_CLOUDEVENTS = "application/cloudevents"
_KINDS = {
    "chat": RequestKind.CHAT,
    "completion": RequestKind.COMPLETION,
    "/v1/chat/completions": RequestKind.CHAT,
    "/v1/completions": RequestKind.COMPLETION,
}
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)
_COPY_HEADERS = frozenset(
    {
        names_of.REQUEST_ID, names_of.LANE, names_of.ATTEMPT, names_of.RETRIES, names_of.NOT_BEFORE_MS,
        names_of.SOURCE_TOPIC, names_of.SOURCE_PARTITION, names_of.SOURCE_OFFSET,
        names_of.SOURCE_TIMESTAMP_MS, names_of.SOURCE_KEY,
    }
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordLike(Protocol):
    """What is read of a Kafka record; header names are decoded with surrogateescape."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class _KnownHeaders:
    """The headers whose names are ours; collects the first problem found while reading them."""

    def __init__(self, headers: Headers) -> None:
        known = ((name.lower(), value) for name, value in headers if value is not None)
        self._values: Mapping[str, bytes] = {name: value for name, value in known if name in names_of.KNOWN}
        self.problem: HeaderProblem | None = None

    def report(self, header: str, message: str, *, is_poison: bool = False) -> None:
        if self.problem is None or (is_poison and not self.problem.is_poison):
            self.problem = HeaderProblem(header=header, message=message, is_poison=is_poison)

    def raw(self, header: str) -> bytes | None:
        return self._values.get(header)

    def escaped(self, header: str) -> str:
        """Text for hashing: bytes that are not UTF-8 stay distinct."""
        return self._values.get(header, b"").decode("utf-8", "surrogateescape")

    def lenient(self, header: str) -> str | None:
        """Text, or None when there is none or it is not UTF-8."""
        try:
            return self._values[header].decode("utf-8").strip()
        except (KeyError, UnicodeDecodeError):
            return None

    def strict(self, header: str) -> str | None:
        """Text, or None when there is none; other bytes than UTF-8 are a problem."""
        if header in self._values and self.lenient(header) is None:
            self.report(header, f"Header {header} is not UTF-8.")
        return self.lenient(header) or None

    def whole_number(self, header: str, low: int, high: int, what: str) -> int | None:
        text = self.strict(header)
        if text is None:
            return None
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            self.report(header, f"Header {header} must be {what}.")
            return None
        return int(text)


def _wire_format(known: _KnownHeaders) -> WireFormat:
    """JSON unless it says protobuf: producers that set no or a vague type (text/plain) mean JSON."""
    media_type = (known.lenient(names_of.CONTENT_TYPE) or "").partition(";")[0].strip().lower()
    if media_type in _PROTOBUF_TYPES:
        return WireFormat.PROTOBUF
    if media_type.startswith(_STRUCTURED_CLOUDEVENTS):
        message = f"CloudEvents in structured mode ({media_type}) are not supported; use binary mode (ce_ headers)"
        known.report(names_of.CONTENT_TYPE, message, is_poison=True)
    return WireFormat.JSON


def _kind(known: _KnownHeaders) -> RequestKind | None:
    text = known.strict(names_of.ENDPOINT)
    if text is not None and text not in _KINDS:
        known.report(names_of.ENDPOINT, f"Header {names_of.ENDPOINT} must be chat or completion.")
    return _KINDS.get(text or "")


def _tenant(known: _KnownHeaders) -> str:
    tenant = known.strict(names_of.TENANT) or ""
    if len(tenant) > TENANT_LIMIT_CHARACTERS or not tenant.isprintable():
        known.report(
            names_of.TENANT,
            f"Header {names_of.TENANT} must be at most {TENANT_LIMIT_CHARACTERS} printable characters.",
        )
        return ""
    return tenant


def _reply_to(known: _KnownHeaders) -> str | None:
    topic = known.strict(names_of.REPLY_TO)
    if topic is None or (_TOPIC_NAME.fullmatch(topic) and topic not in {".", ".."}):
        return topic
    known.report(names_of.REPLY_TO, f"Header {names_of.REPLY_TO} is not a legal topic name.")
    return None


def _deadline_ms(known: _KnownHeaders) -> int | None:
    what = "an instant in Unix milliseconds, not a duration"
    return known.whole_number(names_of.DEADLINE_MS, EARLIEST_DEADLINE_MS, _LATEST_DEADLINE_MS, what)


def _priority(known: _KnownHeaders) -> int:
    what = f"a whole number from -{PRIORITY_LIMIT} to {PRIORITY_LIMIT}"
    return known.whole_number(names_of.PRIORITY, -PRIORITY_LIMIT, PRIORITY_LIMIT, what) or 0


def _trace_headers(known: _KnownHeaders) -> tuple[tuple[str, str], ...]:
    """A broken traceparent is dropped, its tracestate with it, as W3C says."""
    parent, state = known.lenient(names_of.TRACEPARENT), known.lenient(names_of.TRACESTATE)
    if parent is None or not _TRACEPARENT.fullmatch(parent):
        return ()
    traced = ((names_of.TRACEPARENT, parent),)
    return (*traced, (names_of.TRACESTATE, state)) if state and state.isascii() else traced


def _lane(topic: str, names: TopicNames, pool: str) -> Lane:
    return Lane.BULK if topic == names.requests(pool, Lane.BULK) else Lane.INTERACTIVE


def _derived_id(known: _KnownHeaders, coordinates: Coordinates, cluster: str) -> RequestId:
    if event_id := known.escaped(names_of.CE_ID):
        return request_id_from_event(
            tenant=known.escaped(names_of.TENANT).strip(),
            source=known.escaped(names_of.CE_SOURCE),
            event_id=event_id,
        )
    return request_id_from_coordinates(
        cluster=cluster,
        topic=coordinates.topic,
        partition=coordinates.partition,
        offset=coordinates.offset,
        timestamp_ms=coordinates.timestamp_ms,
    )


def source_coordinates(headers: Headers) -> Coordinates | None:
    """Where the request of a result or a copy lies, as their headers say."""
    return _copied_coordinates(_KnownHeaders(headers))


def _copied_coordinates(known: _KnownHeaders) -> Coordinates | None:
    """Where the original of a copy lies; None unless all four are there and sound."""
    topic = known.lenient(names_of.SOURCE_TOPIC)
    numbers = [
        known.lenient(name) or ""
        for name in (names_of.SOURCE_PARTITION, names_of.SOURCE_OFFSET, names_of.SOURCE_TIMESTAMP_MS)
    ]
    if not topic or not all(_INTEGER.fullmatch(number) for number in numbers):
        return None
    partition, offset, timestamp_ms = map(int, numbers)
    return Coordinates(topic=topic, partition=partition, offset=offset, timestamp_ms=timestamp_ms)


def _copied_attempt(known: _KnownHeaders) -> int:
    text = known.lenient(names_of.ATTEMPT) or ""
    return max(1, int(text)) if _INTEGER.fullmatch(text) else 1


def _copied_retries(known: _KnownHeaders) -> int:
    text = known.lenient(names_of.RETRIES) or ""
    return max(0, int(text)) if _INTEGER.fullmatch(text) else 0


def _is_ordered(known: _KnownHeaders, key: bytes | None) -> bool:
    text = known.strict(names_of.ORDERED)
    if text not in {None, "true", "false"}:
        known.report(names_of.ORDERED, f"Header {names_of.ORDERED} must be true or false.")
    elif text == "true" and key is None:
        known.report(names_of.ORDERED, f"Header {names_of.ORDERED} needs a record with a key: order is kept by key.")
    return text == "true" and key is not None


def _version(known: _KnownHeaders) -> SchemaVersion:
    version = parse_version(known.strict(names_of.SCHEMA_VERSION))
    if version is None:
        known.report(names_of.SCHEMA_VERSION, f"Header {names_of.SCHEMA_VERSION} must be <major>.<minor>.")
    return version or UNVERSIONED


def retry_instant_ms(headers: Headers) -> int | None:
    """When the copy on a retry topic may be tried again; None when it does not say."""
    text = _KnownHeaders(headers).lenient(names_of.NOT_BEFORE_MS) or ""
    return int(text) if _INTEGER.fullmatch(text) else None


def ordered_key(record: RecordLike) -> bytes | None:
    """The key whose order this record keeps; None for a record that waits for nobody."""
    known = _KnownHeaders(record.headers)
    return record.key if _is_ordered(known, record.key) else None


def _copied_lane(known: _KnownHeaders) -> Lane:
    return Lane.BULK if known.lenient(names_of.LANE) == Lane.BULK else Lane.INTERACTIVE


def read_envelope(record: RecordLike, *, names: TopicNames, pool: str, cluster: str) -> RequestEnvelope:
    """Never raises. Copy headers are believed on the resume and retry topics of the pool, nowhere else."""
    known = _KnownHeaders(record.headers)
    own = Coordinates(
        topic=record.topic, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
    )
    is_copy = names.holds_copies(pool, record.topic)
    coordinates = (_copied_coordinates(known) if is_copy else None) or own
    copied_id = (known.lenient(names_of.REQUEST_ID) or "") if is_copy else ""
    event_id = known.lenient(names_of.CE_ID)
    return RequestEnvelope(
        request_id=RequestId(copied_id) if is_request_id(copied_id) else _derived_id(known, coordinates, cluster),
        pool=pool,
        lane=_copied_lane(known) if is_copy else _lane(record.topic, names, pool),
        fingerprint=body_fingerprint(record.value or b""),
        coordinates=coordinates,
        key=known.raw(names_of.SOURCE_KEY) if is_copy else record.key,
        event_id=event_id or None,
        attempt=_copied_attempt(known) if is_copy else 1,
        retries=_copied_retries(known) if is_copy else 0,
        is_ordered=not is_copy and _is_ordered(known, record.key),
        version=_version(known),
        trace_headers=_trace_headers(known),
        foreign_headers=tuple(item for item in record.headers if item[0].lower() not in names_of.KNOWN),
        kind=_kind(known),
        tenant=_tenant(known),
        wire_format=_wire_format(known),
        reply_to=_reply_to(known),
        deadline_ms=_deadline_ms(known),
        priority=_priority(known),
        problem=known.problem,  # last: what was read above may have found one
    )


def gateway_request_id(*, tenant: str, event_id: str) -> RequestId:
    """The id that `read_envelope` will derive for a record that the gateway publishes with `gateway_headers`."""
    return request_id_from_event(tenant=tenant, source=GATEWAY_SOURCE, event_id=event_id)


def gateway_headers(
    *,
    event_id: str,
    tenant: str,
    kind: RequestKind,
    accepted_at_ms: int,
    wire_format: WireFormat = WireFormat.JSON,
    deadline_ms: int | None = None,
    priority: int = 0,
    reply_to: str | None = None,
    trace_headers: Sequence[tuple[str, str]] = (),
) -> Headers:
    """The headers of a record that the gateway publishes: CloudEvents in binary mode, and ours."""
    texts = {
        names_of.CONTENT_TYPE: wire_format.value,
        names_of.CE_SPECVERSION: "1.0",
        names_of.CE_ID: event_id,
        names_of.CE_TYPE: f"{names_of.EVENT_TYPE_PREFIX}requested.v1",
        names_of.CE_SOURCE: GATEWAY_SOURCE,
        names_of.CE_TIME: timestamp_text(accepted_at_ms),
        names_of.SCHEMA_VERSION: str(OURS),
        names_of.ENDPOINT: kind.value,
        names_of.TENANT: tenant or None,
        names_of.DEADLINE_MS: None if deadline_ms is None else str(deadline_ms),
        names_of.PRIORITY: str(priority) if priority else None,
        names_of.REPLY_TO: reply_to,
    } | dict(trace_headers)
    return tuple((name, text.encode()) for name, text in texts.items() if text is not None)


def timestamp_text(instant_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, computed without floats."""
    instant = _EPOCH + timedelta(milliseconds=instant_ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _source_headers(envelope: RequestEnvelope) -> Headers:
    coordinates = envelope.coordinates
    source: Headers = (
        (names_of.SOURCE_TOPIC, coordinates.topic.encode("utf-8", "surrogateescape")),
        (names_of.SOURCE_PARTITION, b"%d" % coordinates.partition),
        (names_of.SOURCE_OFFSET, b"%d" % coordinates.offset),
        (names_of.SOURCE_TIMESTAMP_MS, b"%d" % coordinates.timestamp_ms),
    )
    return source if envelope.key is None else (*source, (names_of.SOURCE_KEY, envelope.key))


def copy_headers(
    envelope: RequestEnvelope,
    headers: Headers,
    *,
    attempt: int | None = None,
    retries: int | None = None,
    not_before_ms: int | None = None,
) -> Headers:
    """The headers of a copy (resume, retry) of the record that `headers` are from; its value goes unchanged.

    Everything of the original stays, so that the copy reads as the original did; identity, lane, coordinates and
    attempt are added (those of an earlier copy are replaced). The copy's key is the request id.
    """
    kept = [item for item in headers if item[0].lower() not in _COPY_HEADERS]
    num_retries = envelope.retries if retries is None else retries
    counted = ((names_of.RETRIES, b"%d" % num_retries),) if num_retries else ()
    due = () if not_before_ms is None else ((names_of.NOT_BEFORE_MS, b"%d" % not_before_ms),)
    return (
        *kept,
        (names_of.REQUEST_ID, envelope.request_id.encode()),
        (names_of.LANE, envelope.lane.value.encode()),
        (names_of.ATTEMPT, b"%d" % (envelope.attempt if attempt is None else attempt)),
        *counted,
        *due,
        *_source_headers(envelope),
    )


def result_headers(
    envelope: RequestEnvelope,
    outcome: Outcome,
    *,
    sealed_at_ms: int,
    trace_headers: Sequence[tuple[str, str]] = (),
) -> Headers:
    """The headers of a result: a CloudEvent, the way back to the request's record, its producer's own headers."""
    subject = () if envelope.event_id is None else ((names_of.CE_SUBJECT, envelope.event_id.encode()),)
    tenant = ((names_of.TENANT, envelope.tenant.encode()),) if envelope.tenant else ()
    return (
        (names_of.CONTENT_TYPE, envelope.wire_format.value.encode()),
        (names_of.CE_SPECVERSION, b"1.0"),
        (names_of.CE_ID, envelope.request_id.encode()),
        (names_of.CE_TYPE, f"{names_of.EVENT_TYPE_PREFIX}{outcome.value}.v1".encode()),
        (names_of.CE_SOURCE, f"/penstock/{envelope.pool}".encode()),
        (names_of.CE_TIME, timestamp_text(sealed_at_ms).encode()),
        (names_of.SCHEMA_VERSION, str(OURS).encode()),
        *subject,
        *tenant,
        *_source_headers(envelope),
        *((name, text.encode()) for name, text in trace_headers or envelope.trace_headers),
        *envelope.foreign_headers,
    )
