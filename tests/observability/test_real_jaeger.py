"""Traces in a real Jaeger: over HTTP and Kafka, through a failover; found by what, and kept by a collector."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import pytest_asyncio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from shared.telemetry import spans as names
from tests.fixtures.stack import READY_SECONDS, TINY, Topics
from tests.go_programs.build import GoMissing
from tests.observability.jaeger_server import JaegerServer, Trace, collector, jaeger

pytestmark = [
    pytest.mark.observability,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]

KEY, TENANT = "key-of-search", "search"
HTTP_SPANS = {"POST /v1/completions", names.PUBLISH_REQUEST, names.STREAM}
WORKER_SPANS = {names.QUEUE_WAIT, names.PROCESS_REQUEST, names.PREFILL, names.DECODE, names.PUBLISH_RESULT}
PLAIN, KEPT = 300, 20
_SEEN_SECONDS = 40.0
_Found = TypeVar("_Found")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JaegerServer]:
    try:
        with jaeger(tmp_path_factory.mktemp("jaeger")) as running:
            yield running
    except GoMissing as missing:
        pytest.skip(str(missing))


@dataclass
class Traced:
    """A stack whose spans go to the Jaeger."""

    stack: EmbeddedStack
    jaeger: JaegerServer

    async def ask(self, **changes: object) -> httpx.Response:
        body = {"model": TINY, "prompt": "hi", "max_tokens": 5, "stream": True, **changes}
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=self.stack.http_url, timeout=60, headers=headers) as client:
            return await client.post("/v1/completions", json=body)

    async def trace_of(self, request_id: str, *, with_spans: set[str]) -> Trace:
        def look() -> Trace | None:
            found = self.jaeger.of_request(request_id)
            return found if found is not None and with_spans <= found.names else None

        return await eventually(look)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(
    server: JaegerServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Traced]:
    plan = StackPlan(
        data_dir=tmp_path_factory.mktemp("traced"),
        pools=(PoolPlan(workers=2, model=tiny_model, served_model_name=TINY, dtype="float32"),),
        request_partitions=6,
        environment={
            "PENSTOCK_TELEMETRY_OTLP_ENDPOINT": server.otlp_endpoint,
            "PENSTOCK_GATEWAY_API_KEYS": f"{KEY}={TENANT}",
        },
    )
    async with EmbeddedStack(plan) as stack:
        await stack.wait_until_ready(timeout_seconds=READY_SECONDS)
        yield Traced(stack, server)


async def eventually(look: Callable[[], _Found | None], seconds: float = _SEEN_SECONDS) -> _Found:
    """Spans leave a service half a second after they end; a collector holds them for ten."""
    give_up_at = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(look)
        if found:
            return found
        assert time.monotonic() < give_up_at, "not seen in Jaeger"
        await asyncio.sleep(0.3)


async def test_an_http_request_is_one_trace_found_by_its_id_and_by_its_tenant(traced: Traced) -> None:
    request_id = (await traced.ask()).headers["x-request-id"]
    trace = await traced.trace_of(request_id, with_spans=HTTP_SPANS | WORKER_SPANS)
    assert trace.services == {"gateway", "worker"}
    by_tenant = await eventually(lambda: traced.jaeger.find("gateway", penstock__tenant=TENANT))
    assert trace.trace_id in {found.trace_id for found in by_tenant}
    assert traced.jaeger.find("gateway", penstock__tenant="somebody else") == []


async def test_a_kafka_request_is_one_trace_found_by_its_id(traced: Traced) -> None:
    topics = Topics(traced.stack.addresses.kafka)

    def round_trip() -> str:
        reader = topics.reader()
        (results,) = topics.answers(reader, topics.post({"prompt": "hi", "max_tokens": 5})).values()
        reader.close()
        return results[0].request_id

    trace = await traced.trace_of(await asyncio.to_thread(round_trip), with_spans=WORKER_SPANS)
    assert trace.services == {"worker"}


async def test_a_request_that_failed_is_found_as_an_error(traced: Traced) -> None:
    response = await traced.ask(prompt="far too long " * 4_000, stream=False)
    assert response.status_code == 400
    request_id = response.headers["x-request-id"]

    def look() -> list[Trace]:
        found = traced.jaeger.find("worker", error="true", penstock__request__id=request_id)
        return found or traced.jaeger.find("gateway", error="true", penstock__request__id=request_id)

    assert len(await eventually(look)) == 1


async def test_a_failover_is_one_trace_whose_second_attempt_links_to_the_first(traced: Traced) -> None:
    running = asyncio.create_task(traced.ask(max_tokens=1_500, ignore_eos=True))
    victim = await busy_worker(traced.stack)
    os.kill(victim, signal.SIGKILL)
    request_id = (await running).headers["x-request-id"]
    trace = await traced.trace_of(request_id, with_spans=HTTP_SPANS | WORKER_SPANS | {names.REASSIGN})
    assert trace.services == {"gateway", "worker", "supervisor"}
    attempts = [(span, first) for span, first in trace.linked_spans() if trace.tags(span).get(names.ATTEMPT, 0) == 2]
    assert [(span["operationName"], first["operationName"]) for span, first in attempts] == [
        (names.PROCESS_REQUEST, names.PUBLISH_REQUEST)
    ]


async def busy_worker(stack: EmbeddedStack) -> int:
    """The process that runs the only request there is, once its heartbeat says so."""
    async with httpx.AsyncClient(timeout=5) as client, asyncio.timeout(30):
        while True:
            fleet = (await client.get(f"{stack.supervisor_url}/fleet")).json()
            for worker in fleet["workers"]:
                if worker["running_requests"]:
                    pid = stack.service(f"worker-{worker['worker_id']}").pid
                    assert pid is not None
                    return pid
            await asyncio.sleep(0.05)


async def test_the_service_graph_goes_from_gateway_to_worker(traced: Traced) -> None:
    await traced.ask()
    calls = await eventually(lambda: traced.jaeger.calls())
    assert ("gateway", "worker") in calls


async def test_the_collector_keeps_what_failed_was_slow_or_came_twice_and_a_tenth_of_the_rest(
    server: JaegerServer, tmp_path: Path
) -> None:
    """Of 300 plain traces 5 to 65 are kept but once in a million runs."""
    kinds = ["failed", "slow", "second"]
    with collector(tmp_path, server.otlp_grpc) as endpoint:
        await asyncio.to_thread(_send, endpoint)
        for kind in kinds:
            await eventually(lambda kind=kind: len(_kept(server, kind)) == KEPT)  # type: ignore[misc]
        kept = len(_kept(server, "plain"))
    assert 5 <= kept <= 65


def _kept(server: JaegerServer, kind: str) -> list[Trace]:
    return server.find("sampled", limit=1_000, kind=kind)


def _send(endpoint: str) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "sampled"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")))
    tracer = provider.get_tracer("test")
    for kind, count in (("plain", PLAIN), ("failed", KEPT), ("slow", KEPT), ("second", KEPT)):
        for _ in range(count):
            ended = time.time_ns()
            seconds = 6 if kind == "slow" else 0.01
            span = tracer.start_span("asked", start_time=ended - int(seconds * 1e9), attributes={"kind": kind})
            if kind == "failed":
                span.set_status(Status(StatusCode.ERROR))
            if kind == "second":
                span.set_attribute(names.ATTEMPT, 2)
            span.end(ended)
    provider.shutdown()
