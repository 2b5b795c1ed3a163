import gzip
import sqlite3
import threading
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from services.cli.embedded import span_store
from services.cli.embedded.span_store import SpanReceiver, SpanStore
from services.cli.embedded.stored_span import NotTraces, StoredSpan, decode_spans

PROTOBUF = {"content-type": "application/x-protobuf"}


def span(number: int = 1, *, trace: str = "aa", request: str | None = None, **changes: object) -> StoredSpan:
    values = {
        "trace_id": trace,
        "span_id": f"{number:016x}",
        "parent_id": "",
        "name": f"span {number}",
        "service": "worker",
        "instance": "i",
        "kind": "internal",
        "start_ns": number,
        "end_ns": number + 5,
        "attributes": {} if request is None else {"penstock.request.id": request},
    }
    return StoredSpan(**(values | changes))  # type: ignore[arg-type]


def export(*names: str) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "gateway"
    for number, name in enumerate(names, start=1):
        found = resource.scope_spans.add().spans.add(
            trace_id=b"\xaa" * 16, span_id=number.to_bytes(8, "big"), name=name, kind=2,
            start_time_unix_nano=number, end_time_unix_nano=number + 1,
        )  # fmt: skip
        found.attributes.add(key="penstock.request.id").value.string_value = "r1"
    return message


@pytest.fixture
def store(tmp_path: Path) -> SpanStore:
    return SpanStore(tmp_path / "spans.sqlite")


@pytest.fixture
async def receiver(store: SpanStore) -> AsyncIterator[SpanReceiver]:
    async with SpanReceiver(store) as running:
        yield running


@pytest.fixture
async def client(receiver: SpanReceiver) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=receiver.endpoint, timeout=10.0) as running:
        yield running


class TestStore:
    def test_what_is_written_is_read_in_order_of_start(self, store: SpanStore) -> None:
        late = span(9, attributes={"a": [1, "x"], "b": True, "c": 1.5, "d": None}, status="error")
        store.write([late, span(3)])
        assert store.spans_of_trace("aa") == [span(3), late]

    def test_making_a_store_touches_nothing(self, tmp_path: Path) -> None:
        SpanStore(tmp_path / "missing" / "spans.sqlite")
        assert list(tmp_path.iterdir()) == []

    def test_a_request_is_found_with_all_of_its_trace(self, store: SpanStore) -> None:
        store.write([span(1, request="r1"), span(2), span(3, trace="bb", request="r2")])
        assert [found.span_id[-1] for found in store.spans_of_request("r1")] == ["1", "2"]
        assert store.spans_of_request("unknown") == []

    def test_other_requests_of_one_trace_are_left_out(self, store: SpanStore) -> None:
        store.write([span(1), span(2, request="r1"), span(3, request="r2")])
        assert [found.span_id[-1] for found in store.spans_of_request("r1")] == ["1", "2"]

    def test_a_request_in_two_traces_is_found_in_both(self, store: SpanStore) -> None:
        store.write([span(1, request="r1"), span(2, trace="bb", request="r1")])
        assert {found.trace_id for found in store.spans_of_request("r1")} == {"aa", "bb"}

    def test_a_batch_sent_twice_is_kept_once(self, store: SpanStore) -> None:
        store.write([span(1), span(2)])
        store.write([span(2), span(3)])
        assert len(store.spans_of_trace("aa")) == 3

    def test_beyond_the_limit_the_first_are_forgotten(self, tmp_path: Path) -> None:
        store = SpanStore(tmp_path / "spans.sqlite", max_spans=10)
        for number in range(25):
            store.write([span(number)])
        assert [found.start_ns for found in store.spans_of_trace("aa")] == list(range(15, 25))

    def test_another_store_on_the_same_file_reads_while_this_one_writes(self, store: SpanStore, tmp_path: Path) -> None:
        store.write([span(1)])
        reader = SpanStore(tmp_path / "spans.sqlite")
        writing = sqlite3.connect(tmp_path / "spans.sqlite", isolation_level=None)
        writing.execute("BEGIN IMMEDIATE")
        assert len(reader.spans_of_trace("aa")) == 1
        writing.execute("ROLLBACK")
        writing.close()

    def test_threads_write_at_the_same_time(self, store: SpanStore) -> None:
        threads = [threading.Thread(target=store.write, args=([span(number)],)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.spans_of_trace("aa")) == 8

    def test_finding_a_request_uses_the_index(self, store: SpanStore, tmp_path: Path) -> None:
        store.write([span(1, request="r1")])
        connection = sqlite3.connect(tmp_path / "spans.sqlite")
        plan = connection.execute(f"EXPLAIN QUERY PLAN {span_store._OF_REQUEST}", ("r1", "r1")).fetchall()
        connection.close()
        text = " ".join(str(row) for row in plan)
        assert "spans_by_request" in text
        assert "SCAN spans" not in text


class TestDecoding:
    def test_every_kind_of_value_is_kept(self) -> None:
        message = export("a")
        attributes = message.resource_spans[0].scope_spans[0].spans[0].attributes
        attributes.add(key="i").value.int_value = 7
        attributes.add(key="b").value.bool_value = False
        attributes.add(key="raw").value.bytes_value = b"\x01"
        attributes.add(key="none")
        attributes.add(key="list").value.array_value.values.add().string_value = "x"
        (found,) = decode_spans(message.SerializeToString())
        assert found.attributes == {
            "penstock.request.id": "r1", "i": 7, "b": False, "raw": "01", "none": None, "list": ["x"],
        }  # fmt: skip
        assert (found.service, found.kind, found.status, found.trace_id) == (
            "gateway",
            "server",
            "unset",
            "aa" * 16,
        )
        assert found.request_id == "r1"

    def test_anything_else_is_refused(self) -> None:
        with pytest.raises(NotTraces):
            decode_spans(b"\xff\xff\xff")

    def test_a_duration_is_never_negative(self) -> None:
        assert span(1, end_ns=0).duration_ms == 0


class TestReceiver:
    @pytest.mark.parametrize(
        ("encoding", "encode"),
        [(None, bytes), ("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
    )
    async def test_spans_are_in_the_store_when_the_answer_comes(
        self, client: httpx.AsyncClient, store: SpanStore, encoding: str | None, encode: object
    ) -> None:
        headers = PROTOBUF | ({} if encoding is None else {"content-encoding": encoding})
        body = encode(export("a", "b").SerializeToString())  # type: ignore[operator]
        response = await client.post("/v1/traces", content=body, headers=headers)
        assert (response.status_code, response.content) == (200, b"")
        assert [found.name for found in store.spans_of_request("r1")] == ["a", "b"]

    async def test_one_connection_carries_many_exports(self, client: httpx.AsyncClient, receiver: SpanReceiver) -> None:
        for _ in range(3):
            assert (await client.post("/v1/traces", content=b"", headers=PROTOBUF)).status_code == 200
        assert len(receiver._writers) == 1

    async def test_a_chunked_body_is_understood(self, client: httpx.AsyncClient, store: SpanStore) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            body = export("a").SerializeToString()
            yield body[:10]
            yield body[10:]

        assert (await client.post("/v1/traces", content=pieces(), headers=PROTOBUF)).status_code == 200
        assert len(store.spans_of_request("r1")) == 1

    @pytest.mark.parametrize(
        ("path", "headers", "body", "status"),
        [
            ("/v1/metrics", PROTOBUF, b"", 404),
            ("/v1/traces", {"content-type": "application/json"}, b"{}", 415),
            ("/v1/traces", PROTOBUF, b"\xff\xff\xff", 400),
            ("/v1/traces", PROTOBUF | {"content-encoding": "gzip"}, b"not gzip", 400),
            ("/v1/traces", PROTOBUF | {"content-encoding": "br"}, b"", 415),
        ],
    )
    async def test_what_cannot_be_taken_is_refused_and_the_next_export_is_fine(
        self, client: httpx.AsyncClient, path: str, headers: dict[str, str], body: bytes, status: int
    ) -> None:
        response = await client.post(path, content=body, headers=headers)
        assert response.status_code == status
        assert response.text
        assert (await client.post("/v1/traces", content=b"", headers=PROTOBUF)).status_code == 200

    async def test_only_posts_are_taken(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/traces")).status_code == 405

    async def test_a_body_that_inflates_beyond_the_limit_is_refused(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(span_store, "MAX_BODY_BYTES", 1_000)
        headers = PROTOBUF | {"content-encoding": "gzip"}
        response = await client.post("/v1/traces", content=gzip.compress(bytes(5_000)), headers=headers)
        assert response.status_code == 413

    async def test_a_file_that_cannot_be_written_is_an_error_to_be_retried(self, tmp_path: Path) -> None:
        unwritable = SpanStore(tmp_path / "missing" / "x.sqlite")
        async with (
            SpanReceiver(unwritable) as receiver,
            httpx.AsyncClient(base_url=receiver.endpoint) as client,
        ):
            response = await client.post("/v1/traces", content=export("a").SerializeToString(), headers=PROTOBUF)
        assert response.status_code == 503

    async def test_leaving_closes_open_connections(self, store: SpanStore) -> None:
        async with httpx.AsyncClient(timeout=5.0) as client:
            async with SpanReceiver(store) as receiver:
                endpoint = receiver.endpoint
                await client.post(f"{endpoint}/v1/traces", content=b"", headers=PROTOBUF)
            with pytest.raises(httpx.TransportError):
                await client.post(f"{endpoint}/v1/traces", content=b"", headers=PROTOBUF)


async def test_one_requests_spans_are_answered_as_jaeger_would(client: httpx.AsyncClient, store: SpanStore) -> None:
    failed = span(2, request="r1", parent_id=f"{1:016x}", status="error", start_ns=5_000, end_ns=9_000)
    store.write([span(1, request="r1", start_ns=2_000, end_ns=12_000), failed, span(3, request="r2", trace="bb")])
    answer = await client.get("/api/traces", params={"service": "worker", "tags": '{"penstock.request.id": "r1"}'})
    (trace,) = answer.json()["data"]
    assert [(s["operationName"], s["startTime"], s["duration"]) for s in trace["spans"]] == [
        ("span 1", 2, 10),
        ("span 2", 5, 4),
    ]
    assert trace["spans"][1]["references"][0]["spanID"] == trace["spans"][0]["spanID"]
    assert {"key": "error", "value": True} in trace["spans"][1]["tags"]
    assert trace["processes"][trace["spans"][0]["processID"]]["serviceName"] == "worker"


@pytest.mark.parametrize("tags", ["", "{", '{"penstock.tenant": "a"}', "[1]"])
async def test_other_questions_to_jaeger_are_refused(client: httpx.AsyncClient, tags: str) -> None:
    assert (await client.get("/api/traces", params={"tags": tags})).status_code == 400


async def test_an_unknown_request_has_no_trace(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/traces", params={"tags": '{"penstock.request.id": "none"}'})
    assert answer.json() == {"data": []}
