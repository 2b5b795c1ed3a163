"""One request, one trace: from the client's own span over HTTP or Kafka to the last token."""

import asyncio
import json

import httpx
import pytest
from confluent_kafka import Producer

from services.cli.embedded.span_store import StoredSpan
from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
WORKER_SPANS = {"queue wait", "process inference.requests", "intake", "prefill", "decode", "publish inference.results"}


async def spans_of(stack: EmbeddedStack, request_id: str, names: set[str]) -> list[StoredSpan]:
    """The request's spans, once those of `names` are among them."""
    async with asyncio.timeout(30):
        while True:
            spans = await asyncio.to_thread(stack.span_store.spans_of_request, request_id)
            if names <= {span.name for span in spans}:
                return spans
            await asyncio.sleep(0.1)


def assert_one_tree(spans: list[StoredSpan], *, root_parent: str | None) -> None:
    """Every span's parent is another span of the trace, but for the roots under `root_parent`."""
    assert len({span.trace_id for span in spans}) == 1
    ids = {span.span_id for span in spans}
    outside = {span.parent_id for span in spans if span.parent_id not in ids}
    assert {parent or None for parent in outside} == {root_parent}


async def test_an_http_request_is_one_trace_across_gateway_kafka_and_worker(whole_stack: EmbeddedStack) -> None:
    async with httpx.AsyncClient(base_url=whole_stack.http_url, timeout=60) as client:
        response = await client.post(
            "/v1/chat/completions",
            headers={"traceparent": TRACEPARENT},
            json={"model": TINY, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True},
        )
    wanted = {"POST /v1/chat/completions", "publish inference.requests", "stream"} | WORKER_SPANS
    spans = await spans_of(whole_stack, response.headers["x-request-id"], wanted)
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert_one_tree(spans, root_parent=SPAN_ID)
    assert {"gateway", "worker"} <= {span.service for span in spans}


async def test_a_kafka_request_continues_its_producers_trace(whole_stack: EmbeddedStack, topics: Topics) -> None:
    trace_id = "1" * 32

    def round_trip() -> str:
        reader = topics.reader()
        producer = Producer({"bootstrap.servers": whole_stack.addresses.kafka})
        value = json.dumps({"prompt": "hi", "max_tokens": 5}).encode()
        producer.produce(
            topics.requests, value=value, headers=[("traceparent", f"00-{trace_id}-{SPAN_ID}-01".encode())]
        )
        producer.flush(10)
        for result in reader.results(timeout_seconds=30):
            if trace_id.encode() in (result.headers.get("traceparent") or b""):
                reader.close()
                return result.request_id
        raise AssertionError("no result carries the producer's trace")

    request_id = await asyncio.to_thread(round_trip)
    spans = await spans_of(whole_stack, request_id, WORKER_SPANS)
    assert_one_tree(spans, root_parent=SPAN_ID)


async def test_a_record_without_a_trace_gets_one_of_its_own(whole_stack: EmbeddedStack, topics: Topics) -> None:
    def round_trip() -> str:
        reader = topics.reader()
        receipts = topics.post({"prompt": "hi", "max_tokens": 5})
        (results,) = topics.answers(reader, receipts).values()
        reader.close()
        return results[0].request_id

    request_id = await asyncio.to_thread(round_trip)
    spans = await spans_of(whole_stack, request_id, WORKER_SPANS)
    assert_one_tree(spans, root_parent=None)
