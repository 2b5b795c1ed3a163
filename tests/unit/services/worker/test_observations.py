"""One request, one trace: the worker's spans of it, their parents and their times."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.worker.observations import TokenRate
from shared.telemetry import spans
from shared.telemetry.catalogue import REGISTRY
from shared.telemetry.metrics_http import render_metrics
from tests.unit.services.worker.path_harness import PathHarness, running_path

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01".encode()


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = spans.use_tracer(provider.get_tracer("test"))
    yield exporter
    spans.use_tracer(before)


async def answered(harness: PathHarness, **options: object) -> None:
    delivery = harness.ask(headers=[("ce_id", b"a"), ("traceparent", PARENT)], **options)
    await harness.until(lambda: delivery.is_done)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_all_spans_of_a_request_are_in_its_producers_trace(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness)
    found = by_name(exported)
    assert set(found) == {
        spans.PROCESS_REQUEST, spans.QUEUE_WAIT, spans.INTAKE, spans.PREFILL, spans.DECODE, spans.PUBLISH_RESULT,
    }  # fmt: skip
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {TRACE}
    request_ids = {(span.attributes or {}).get(spans.REQUEST_ID) for span in found.values()}
    assert request_ids == set(harness.store.entries)


async def test_the_parts_are_children_of_the_process_span(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness)
    found = by_name(exported)
    process = found.pop(spans.PROCESS_REQUEST)
    assert process.context is not None
    assert {span.parent and span.parent.span_id for span in found.values()} == {process.context.span_id}
    assert process.parent is not None
    assert f"{process.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_the_result_carries_the_trace_on(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness)
        headers = harness.results.sent[0][2]
    assert (headers["traceparent"] or b"").decode().split("-")[1] == TRACE


async def test_a_second_attempt_is_in_the_same_trace_and_linked(exported: InMemorySpanExporter) -> None:
    copy_headers = [
        ("ce_id", b"a"),
        ("traceparent", PARENT),
        ("penstock-attempt", b"2"),
        ("penstock-request-id", b"0" * 32),
    ]
    async with running_path() as harness:
        delivery = harness.post(
            b'{"prompt": "abc", "max_tokens": 2}',
            headers=copy_headers,
            topic="inference.requests.default.resume",
        )
        await harness.until(lambda: delivery.is_done)
    process = by_name(exported)[spans.PROCESS_REQUEST]
    assert process.context is not None
    assert f"{process.context.trace_id:032x}" == TRACE
    assert len(process.links) == 1


async def test_a_first_attempt_links_to_nothing(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness)
    assert by_name(exported)[spans.PROCESS_REQUEST].links == ()


async def test_a_failed_request_marks_its_span(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness, temperature=99)
    process = by_name(exported)[spans.PROCESS_REQUEST]
    assert not process.status.is_ok
    assert (process.attributes or {})[spans.OUTCOME] == "failed"


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"pool": "default", **labels}) or 0.0


async def test_counters_count_requests_claims_and_tokens() -> None:
    names = {
        "results": ("penstock_results_total", {"outcome": "completed"}),
        "claims": ("penstock_claims_total", {"answer": "run"}),
        "tokens": ("penstock_tokens_total", {"kind": "completion"}),
        "prompt": ("penstock_tokens_total", {"kind": "prompt"}),
    }
    before = {key: sample(name, **labels) for key, (name, labels) in names.items()}
    async with running_path() as harness:
        await answered(harness, max_tokens=9)
    grown = {key: sample(name, **labels) - before[key] for key, (name, labels) in names.items()}
    assert grown == {"results": 1, "claims": 1, "tokens": 9, "prompt": 3}


def test_the_token_rate_forgets() -> None:
    rate = TokenRate()
    rate.add(0.0, 100)
    rate.add(1.0, 50)
    assert rate.per_second(1.0) == 30.0
    assert rate.per_second(5.5) == 10.0
    assert rate.per_second(60.0) == 0.0


async def test_latencies_carry_the_trace_they_were_measured_in(exported: InMemorySpanExporter) -> None:
    async with running_path() as harness:
        await answered(harness)
    _, body = render_metrics("application/openmetrics-text; version=1.0.0")
    for name in (b"penstock_queue_wait_seconds_bucket", b"penstock_time_to_first_token_seconds_bucket"):
        tied = [line for line in body.splitlines() if line.startswith(name) and TRACE.encode() in line]
        assert tied, f"{name!r} has no exemplar"


async def test_a_measurement_without_a_kept_trace_has_no_exemplar() -> None:
    assert spans.exemplar_of(None) is None
    assert spans.exemplar_of(spans.tracer().start_span("not kept")) is None


def test_a_load_that_has_just_begun_is_not_averaged_with_the_rest_before() -> None:
    rate = TokenRate()
    assert rate.per_busy_second(100.0) == 0.0
    for tenth in range(1, 11):
        rate.add(100.0 + tenth / 10, 10)
    assert rate.per_busy_second(101.1) == pytest.approx(100.0)
    assert rate.per_second(101.1) == pytest.approx(20.0)
    for tenth in range(11, 101):
        rate.add(100.0 + tenth / 10, 10)
    assert rate.per_busy_second(110.0) == pytest.approx(100.0, rel=0.05)
