"""Our bytes mean what the SDK's encoder says, whatever is in the spans."""

import math

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from shared.telemetry.otlp_encoding import encode_export

RESOURCE = Resource({"service.name": "gateway", "service.instance.id": "g-1"})
SCOPE = InstrumentationScope("penstock", "1.2.3")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
values = st.one_of(
    text, st.booleans(), numbers, floats, *(st.lists(kind, max_size=3) for kind in (text, st.booleans(), numbers))
)
attributes = st.dictionaries(text.filter(bool), values, max_size=5)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.just(TraceFlags(TraceFlags.SAMPLED)),
    trace_state=st.sampled_from([TraceState(), TraceState([("vendor", "a"), ("other", "b=c")])]),
)
statuses = st.one_of(
    st.just(Status()), st.just(Status(StatusCode.OK)), text.map(lambda why: Status(StatusCode.ERROR, why))
)
moments = st.integers(1, 2**63)
spans = st.builds(
    ReadableSpan,
    text,
    contexts,
    st.none() | contexts,
    st.just(RESOURCE),
    st.none() | attributes,
    links=st.lists(st.builds(Link, contexts, st.none() | attributes), max_size=2),
    kind=st.sampled_from(SpanKind),
    status=statuses,
    start_time=moments,
    end_time=moments,
    instrumentation_scope=st.just(SCOPE),
)


@given(st.lists(spans, min_size=1, max_size=4))
def test_the_bytes_say_what_the_sdks_encoder_says(found: list[ReadableSpan]) -> None:
    assert ExportTraceServiceRequest.FromString(encode_export(found, RESOURCE, SCOPE)) == encode_spans(found)


def test_what_is_no_number_arrives_as_that() -> None:
    context = SpanContext(1, 1, is_remote=False)
    span = ReadableSpan("a", context, resource=RESOURCE, attributes={"a": math.nan}, start_time=1, end_time=2)
    export = ExportTraceServiceRequest.FromString(encode_export([span], RESOURCE, SCOPE))
    (pair,) = export.resource_spans[0].scope_spans[0].spans[0].attributes
    assert math.isnan(pair.value.double_value)


def test_half_a_surrogate_pair_costs_a_character_not_the_batch() -> None:
    context = SpanContext(1, 1, is_remote=False)
    span = ReadableSpan("a\ud800", context, resource=RESOURCE, attributes={"a": "b\udfff"}, start_time=1, end_time=2)
    export = ExportTraceServiceRequest.FromString(encode_export([span], RESOURCE, SCOPE))
    (found,) = export.resource_spans[0].scope_spans[0].spans
    assert (found.name, found.attributes[0].value.string_value) == ("a?", "b?")
