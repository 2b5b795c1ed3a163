import asyncio
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from structlog.testing import capture_logs

from shared.settings.telemetry import TelemetrySettings
from shared.telemetry import setup, spans
from shared.telemetry.metrics import SPANS_DROPPED
from shared.telemetry.propagation import extract, inject
from shared.telemetry.setup import setup_telemetry, traces_endpoint
from shared.telemetry.span_export import QuietExporter

REMOTE = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


class Failing(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE


@pytest.mark.parametrize(
    ("own", "environment", "endpoint"),
    [
        (None, {}, None),
        ("http://a:4318", {}, "http://a:4318/v1/traces"),
        ("http://a:4318/", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}, "http://b/v1/traces"),
        ("http://a", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://c/x"),
    ],
)
def test_opentelemetrys_own_variables_win(own: str | None, environment: dict[str, str], endpoint: str | None) -> None:
    assert traces_endpoint(TelemetrySettings(otlp_endpoint=own), environment) == endpoint


async def test_without_an_endpoint_nothing_is_recorded_but_context_flows_through() -> None:
    async with setup_telemetry(TelemetrySettings(), "gateway", environment={}):
        root = spans.tracer().start_span("a")
        assert not root.is_recording()
        assert root.get_span_context().is_valid, "log lines need a trace id"
        child = spans.tracer().start_span("b", context=extract(REMOTE))
        onward = dict(inject(set_span_in_context(child)))["traceparent"]
        assert onward.startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert onward.endswith("01"), "a sampled trace stays sampled for those behind us"


async def test_entering_replaces_the_tracer_and_leaving_gives_it_back() -> None:
    before = spans.tracer()
    async with setup_telemetry(TelemetrySettings(), "gateway", environment={}):
        assert spans.tracer() is not before
    assert spans.tracer() is before


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, 0), (1.0, 200)])
async def test_the_ratio_decides_about_roots(ratio: float, sampled: int) -> None:
    settings = TelemetrySettings(trace_sample_ratio=ratio, otlp_endpoint="http://127.0.0.1:9")
    telemetry = setup_telemetry(settings, "gateway", environment={})
    provider = telemetry._build_provider()
    tracer = provider.get_tracer("test")
    found = sum(tracer.start_span("a").get_span_context().trace_flags.sampled for _ in range(200))
    assert found == sampled
    child = tracer.start_span("b", context=extract(REMOTE))
    assert child.get_span_context().trace_flags.sampled, "a sampled parent is obeyed"
    assert provider.resource.attributes["service.name"] == "gateway"
    assert {"service.instance.id", "service.version"} <= provider.resource.attributes.keys()


async def test_a_collector_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "FLUSH_SECONDS", 0.3)
    settings = TelemetrySettings(otlp_endpoint="http://127.0.0.1:9")
    started = time.monotonic()
    async with setup_telemetry(settings, "gateway", environment={}):
        spans.record_span("a", None, 1, 2)
    assert time.monotonic() - started < 2.0


def test_lost_spans_are_counted_and_reported_once_a_minute() -> None:
    now = [0.0]
    exporter = QuietExporter(Failing(), monotonic=lambda: now[0])
    before = SPANS_DROPPED._value.get()
    with capture_logs() as logs:
        for _ in range(30):
            exporter.export([None, None])  # type: ignore[list-item]
            now[0] += 3.0
    assert SPANS_DROPPED._value.get() - before == 60
    assert [line["spans_dropped"] for line in logs] == [2, 42]


class TestRecordedSpans:
    @pytest.fixture
    def recorded(self) -> InMemorySpanExporter:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        before = spans.use_tracer(provider.get_tracer("test"))
        yield exporter
        spans.use_tracer(before)

    def test_a_span_of_the_past_keeps_its_times(self, recorded: InMemorySpanExporter) -> None:
        parent = extract(REMOTE)
        status = Status(StatusCode.ERROR, "why")
        spans.record_span("decode", parent, 100, 250, {spans.POOL: "p"}, SpanKind.CONSUMER, status)
        (span,) = recorded.get_finished_spans()
        assert (span.name, span.start_time, span.end_time, span.kind) == (
            "decode",
            100,
            250,
            SpanKind.CONSUMER,
        )
        assert span.context.trace_id == get_current_span(parent).get_span_context().trace_id
        assert span.attributes == {"penstock.pool": "p"}
        assert span.status.description == "why"

    def test_a_clock_that_went_back_makes_no_negative_span(self, recorded: InMemorySpanExporter) -> None:
        spans.record_span("decode", None, 100, 50)
        (span,) = recorded.get_finished_spans()
        assert span.end_time == span.start_time == 100

    def test_an_error_has_its_code_as_type(self, recorded: InMemorySpanExporter) -> None:
        with spans.tracer().start_as_current_span("a") as span:
            spans.set_error(span, "engine_failed", "it died")
        (span,) = recorded.get_finished_spans()
        assert span.attributes["error.type"] == "engine_failed"
        assert span.status.status_code is StatusCode.ERROR

    def test_messaging_attributes_follow_the_conventions(self) -> None:
        attributes = spans.messaging_attributes("process", "t", partition=3, offset=9, group="g")
        assert attributes == {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "t",
            "messaging.destination.partition.id": "3",
            "messaging.kafka.offset": 9,
            "messaging.consumer.group.name": "g",
        }


async def test_leaving_twice_is_harmless_for_the_event_loop() -> None:
    telemetry = setup_telemetry(TelemetrySettings(), "gateway", environment={})
    async with telemetry:
        pass
    await asyncio.wait_for(telemetry.__aexit__(None, None, None), 5.0)
