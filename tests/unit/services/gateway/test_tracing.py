"""One request, one trace: what the gateway's spans say and what Kafka's headers carry on."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from shared.contracts.errors import BrokerUnavailable
from shared.telemetry import spans
from tests.fakes.served_gateway import ServedGateway, until

STREAM = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    before = spans.use_tracer(provider.get_tracer("test"))
    yield memory
    spans.use_tracer(before)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_server_publish_and_stream_spans_are_one_trace_with_the_clients(
    exporter: InMemorySpanExporter, served: ServedGateway
) -> None:
    asked = asyncio.create_task(
        served.client.post("/v1/chat/completions", json=STREAM, headers={"traceparent": TRACEPARENT})
    )
    record = await served.published()
    sealed = await served.worker.answer(record, "a")
    await asked
    await until(lambda: len(exporter.get_finished_spans()) == 3)
    found = by_name(exporter)
    server, publish, stream = (
        found[name] for name in ("POST /v1/chat/completions", spans.PUBLISH_REQUEST, spans.STREAM)
    )
    assert {f"{span.context.trace_id:032x}" for span in found.values() if span.context} == {TRACE_ID}
    assert (server.kind, publish.kind, stream.kind) == (SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.INTERNAL)
    assert server.context is not None
    assert publish.context is not None
    assert publish.parent is not None
    assert stream.parent is not None
    assert publish.parent.span_id == stream.parent.span_id == server.context.span_id
    carried = dict(record.headers)["traceparent"].decode().split("-")
    assert carried[1:3] == [TRACE_ID, f"{publish.context.span_id:016x}"]
    assert {span.attributes[spans.REQUEST_ID] for span in found.values() if span.attributes} == {sealed.request_id}
    assert publish.attributes is not None
    assert publish.attributes[spans.TENANT] == "default"


async def test_a_failed_publish_is_an_error_in_both_spans(
    exporter: InMemorySpanExporter, served: ServedGateway
) -> None:
    served.producer.error = BrokerUnavailable("no broker")
    await served.client.post("/v1/chat/completions", json=STREAM)
    await until(lambda: len(exporter.get_finished_spans()) == 2)
    codes = {span.attributes.get(spans.ERROR_TYPE) for span in exporter.get_finished_spans() if span.attributes}
    assert codes == {"broker_unavailable"}


async def test_probes_leave_no_spans(exporter: InMemorySpanExporter, served: ServedGateway) -> None:
    await served.client.get("/livez")
    await served.client.get("/v1/models")
    await until(lambda: exporter.get_finished_spans())
    assert set(by_name(exporter)) == {"GET /v1/models"}


async def test_without_a_tracer_the_clients_trace_still_reaches_kafka(served: ServedGateway) -> None:
    asked = asyncio.create_task(
        served.client.post("/v1/chat/completions", json=STREAM, headers={"traceparent": TRACEPARENT})
    )
    record = await served.published()
    await served.worker.answer(record, "a")
    await asked
    assert TRACE_ID in dict(record.headers)["traceparent"].decode()
