"""The real OTLP exporter against the laptop stack's receiver: two services, one trace."""

from pathlib import Path

from opentelemetry.trace import SpanKind, get_current_span, set_span_in_context

from services.cli.embedded.span_store import SpanReceiver, SpanStore
from shared.settings.telemetry import TelemetrySettings
from shared.telemetry import spans
from shared.telemetry.propagation import extract, inject
from shared.telemetry.setup import setup_telemetry

HERE = {spans.REQUEST_ID: "r1"}


async def test_spans_of_two_services_linked_by_headers_are_one_trace(tmp_path: Path) -> None:
    store = SpanStore(tmp_path / "spans.sqlite")
    async with SpanReceiver(store) as receiver:
        settings = TelemetrySettings(otlp_endpoint=receiver.endpoint)
        async with setup_telemetry(settings, "gateway", "g-1", environment={}):
            with (
                spans.tracer().start_as_current_span("POST /v1", kind=SpanKind.SERVER, attributes=HERE),
                spans.tracer().start_as_current_span(spans.PUBLISH_REQUEST, kind=SpanKind.PRODUCER),
            ):
                headers = [(name, value.encode()) for name, value in inject()]
        async with setup_telemetry(settings, "worker", "w-1", environment={}):
            parent = extract([*headers, ("x-odd", b"\xff"), ("x-null", None)])
            process = spans.tracer().start_span(
                spans.PROCESS_REQUEST, context=parent, kind=SpanKind.CONSUMER, attributes=HERE
            )
            inside = set_span_in_context(process, parent)
            start_ns = process.start_time  # type: ignore[attr-defined]
            spans.record_span(spans.DECODE, inside, start_ns + 1, start_ns + 2, HERE)
            spans.set_error(process, "engine_failed", "it died")
            process.end()
    found = {span.name: span for span in store.spans_of_request("r1")}
    assert set(found) == {"POST /v1", spans.PUBLISH_REQUEST, spans.PROCESS_REQUEST, spans.DECODE}
    assert len({span.trace_id for span in found.values()}) == 1
    assert found["POST /v1"].parent_id == ""
    assert found[spans.PROCESS_REQUEST].parent_id == found[spans.PUBLISH_REQUEST].span_id
    assert found[spans.DECODE].parent_id == found[spans.PROCESS_REQUEST].span_id
    assert (found["POST /v1"].service, found[spans.DECODE].instance) == ("gateway", "w-1")
    assert found[spans.PROCESS_REQUEST].status == "error"
    assert found[spans.DECODE].duration_ms == 1e-6


async def test_everything_is_flushed_at_the_end_even_more_than_one_batch(tmp_path: Path) -> None:
    store = SpanStore(tmp_path / "spans.sqlite")
    async with SpanReceiver(store) as receiver:
        settings = TelemetrySettings(otlp_endpoint=receiver.endpoint)
        async with setup_telemetry(settings, "gateway", environment={}):
            root = spans.tracer().start_span("root", attributes=HERE)
            for _ in range(1_500):
                spans.record_span("child", set_span_in_context(root), 1, 2)
            root.end()
    assert len(store.spans_of_request("r1")) == 1_501
    assert get_current_span().get_span_context().is_valid is False
