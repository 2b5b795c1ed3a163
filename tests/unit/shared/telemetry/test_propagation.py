import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span, set_span_in_context

from shared.telemetry.propagation import extract, inject

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def trace_id(headers: object) -> int:
    return get_current_span(extract(headers)).get_span_context().trace_id  # type: ignore[arg-type]


def test_what_is_injected_and_extracted_is_the_same_trace_and_parent() -> None:
    span = TRACER.start_span("a")
    headers = inject(set_span_in_context(span))
    found = get_current_span(extract(headers)).get_span_context()
    assert found.trace_id == span.get_span_context().trace_id
    assert found.span_id == span.get_span_context().span_id
    assert found.is_remote


def test_the_link_survives_bytes_as_kafka_has_them() -> None:
    span = TRACER.start_span("a")
    headers = [(name.title(), value.encode()) for name, value in inject(set_span_in_context(span))]
    child = TRACER.start_span("b", context=extract(headers))
    assert child.get_span_context().trace_id == span.get_span_context().trace_id


def test_tracestate_travels_along() -> None:
    headers = (("traceparent", PARENT), ("tracestate", "vendor=1"))
    assert dict(inject(extract(headers))) == dict(headers)


def test_the_current_span_is_injected_by_default() -> None:
    with TRACER.start_as_current_span("a") as span:
        assert f"{span.get_span_context().trace_id:032x}" in dict(inject())["traceparent"]
    assert inject() == ()


@pytest.mark.parametrize(
    "value",
    [
        None, b"", "", b"\xff\xfe", "ünïcode", b"00-xyz", PARENT[:-1], PARENT.replace("00-", "ff-"),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "x" * 100_000,
    ],
)  # fmt: skip
def test_a_broken_parent_is_no_parent(value: str | bytes | None) -> None:
    assert trace_id([("traceparent", value)]) == 0


def test_without_a_parent_a_span_is_a_root_whatever_is_current() -> None:
    with TRACER.start_as_current_span("poll loop") as loop:
        span = TRACER.start_span("b", context=extract([("other", b"1")]))
    assert span.get_span_context().trace_id != loop.get_span_context().trace_id
    assert span.parent is None  # type: ignore[attr-defined]


def test_of_two_parents_the_last_one_counts() -> None:
    other = PARENT.replace("0af7", "1af7")
    assert trace_id([("traceparent", other), ("traceparent", PARENT)]) == int(PARENT[3:35], 16)


def test_a_broken_last_one_does_not_hide_a_good_one() -> None:
    assert trace_id([("traceparent", PARENT), ("traceparent", None)]) == int(PARENT[3:35], 16)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["traceparent", "tracestate", "TRACEPARENT", "x"]),
            st.none() | st.binary(max_size=60) | st.text(max_size=60),
        )
    )
)
def test_no_header_whatever_raises(headers: list[tuple[str, str | bytes | None]]) -> None:
    extract(headers)
