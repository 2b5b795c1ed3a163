"""Where the laptop stack's traces go: an OTLP/HTTP receiver in front of one SQLite file.

A stand-in for nothing: it speaks the same protocol as a collector, so that services are set up here as in
production. Refuses to know what the spans mean; `penstock trace` draws them. Another process may read the file while
this one writes it (WAL).
"""

import asyncio
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Self

import h11

from services.cli.embedded import jaeger_answers
from services.cli.embedded.stored_span import NotTraces, StoredSpan, decode_spans

__all__ = ["SpanReceiver", "SpanStore", "StoredSpan"]

MAX_SPANS = 200_000
MAX_BODY_BYTES = 64 * 1024 * 1024

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spans (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT NOT NULL, name TEXT NOT NULL,
    service TEXT NOT NULL, instance TEXT NOT NULL, kind TEXT NOT NULL,
    start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    status TEXT NOT NULL, status_message TEXT NOT NULL, attributes TEXT NOT NULL, request_id TEXT,
    UNIQUE (trace_id, span_id)
);
CREATE INDEX IF NOT EXISTS spans_by_request ON spans (request_id) WHERE request_id IS NOT NULL;
"""
_COLUMNS = (
    "trace_id, span_id, parent_id, name, service, instance, kind, start_ns, end_ns, status, status_message, attributes"
)
# A resent batch changes nothing: the exporter repeats what was not acknowledged.
_INSERT = f"INSERT OR IGNORE INTO spans ({_COLUMNS}, request_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OF_TRACE = f"SELECT {_COLUMNS} FROM spans WHERE trace_id = ? ORDER BY start_ns, number"
# A client may put many requests into one trace: leave out the spans that say they belong to another.
_OF_REQUEST = f"""
SELECT {_COLUMNS} FROM spans
WHERE trace_id IN (SELECT DISTINCT trace_id FROM spans WHERE request_id = ?)
  AND (request_id IS NULL OR request_id = ?)
ORDER BY start_ns, number
"""
_PRUNE = "DELETE FROM spans WHERE number <= (SELECT max(number) FROM spans) - ?"


class SpanStore:
    """The file. Methods block; any thread may call them. Nothing is touched before the first call."""

    def __init__(self, path: Path, *, max_spans: int = MAX_SPANS) -> None:
        self._path = path
        self._max_spans = max_spans
        self._lock = threading.Lock()
        self._is_prepared = False

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10.0, isolation_level=None)
        with self._lock:
            if not self._is_prepared:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                self._is_prepared = True
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def write(self, spans: Iterable[StoredSpan]) -> None:
        """One transaction. Beyond the limit the spans that came first are forgotten."""
        rows = [_row(span) for span in spans]
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, rows)
            connection.execute(_PRUNE, (self._max_spans,))
            connection.execute("COMMIT")

    def spans_of_request(self, request_id: str) -> list[StoredSpan]:
        """Every span of the traces that the request took part in, in order of start."""
        return self._query(_OF_REQUEST, request_id, request_id)

    def spans_of_trace(self, trace_id: str) -> list[StoredSpan]:
        return self._query(_OF_TRACE, trace_id)

    def _query(self, statement: str, *values: str) -> list[StoredSpan]:
        with closing(self._connect()) as connection:
            return [_span(row) for row in connection.execute(statement, values)]


def _row(span: StoredSpan) -> tuple[str | int | None, ...]:
    return (
        span.trace_id, span.span_id, span.parent_id, span.name, span.service, span.instance, span.kind,
        span.start_ns, span.end_ns, span.status, span.status_message, json.dumps(span.attributes), span.request_id,
    )  # fmt: skip


def _span(row: tuple[str, str, str, str, str, str, str, int, int, str, str, str]) -> StoredSpan:
    names = (
        "trace_id", "span_id", "parent_id", "name", "service", "instance", "kind",
        "start_ns", "end_ns", "status", "status_message",
    )  # fmt: skip
    values = dict(zip(names, row, strict=False))
    return StoredSpan(**values, attributes=json.loads(row[-1]))  # type: ignore[arg-type]


class Refused(Exception):
    """An HTTP answer other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def _inflate(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Refused(415, f"content-encoding {encoding} is not understood")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = inflater.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise Refused(400, f"body is not {encoding}: {error}") from None
    if inflater.unconsumed_tail:
        raise Refused(413, f"more than {MAX_BODY_BYTES} bytes when inflated")
    return plain


class SpanReceiver:
    """`POST /v1/traces`, and `GET /api/traces` for one request's, on a port of its own. Give services `endpoint`."""

    def __init__(self, store: SpanStore, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._store = store
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        """The base URL for OTEL_EXPORTER_OTLP_ENDPOINT."""
        assert self._server is not None, "enter the receiver first"
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                status, body = await self._answer_one(connection, reader)
                if status == 0:
                    return
                _send(connection, writer, status, body)
                await writer.drain()
                if h11.MUST_CLOSE in (connection.our_state, connection.their_state):
                    return
                connection.start_next_cycle()
        except (OSError, h11.ProtocolError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer_one(self, connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """Status and body for the next request; status 0 when the client has gone."""
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("body too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                try:
                    return 200, await self._done(request, bytes(body))
                except Refused as refused:
                    return refused.status, refused.reason.encode()
            else:
                return 0, b""

    async def _done(self, request: h11.Request, body: bytes) -> bytes:
        path, _, query = request.target.partition(b"?")
        if (request.method, path) != (b"GET", jaeger_answers.PATH):
            await self._ingest(request, body)
            return b""  # an empty ExportTraceServiceResponse is an empty message: everything was taken
        request_id = jaeger_answers.asked_request_id(query)
        if request_id is None:
            raise Refused(400, "traces are found by the tag penstock.request.id only")
        spans = await asyncio.to_thread(self._store.spans_of_request, request_id)
        return jaeger_answers.answer(spans)

    async def _ingest(self, request: h11.Request, body: bytes) -> None:
        """Returns once the spans are in the file: an exporter that got its answer has lost nothing."""
        if request.target.split(b"?")[0] != b"/v1/traces":
            raise Refused(404, "only /v1/traces is served here")
        if request.method != b"POST":
            raise Refused(405, "POST spans here")
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        if headers.get(b"content-type", "").split(";")[0] != "application/x-protobuf":
            raise Refused(415, "send application/x-protobuf")
        encoding = headers.get(b"content-encoding", "").strip().lower()
        await asyncio.to_thread(self._store_body, body, encoding)

    def _store_body(self, body: bytes, encoding: str) -> None:
        try:
            self._store.write(decode_spans(_inflate(body, encoding)))
        except NotTraces as error:
            raise Refused(400, str(error)) from None
        except sqlite3.Error as error:
            raise Refused(503, f"the span file cannot be written: {error}") from None


def _send(connection: h11.Connection, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    is_json = status == 200 and body != b""
    content_type = "application/json" if is_json else "application/x-protobuf"
    if status != 200:
        content_type = "text/plain; charset=utf-8"
    headers = [("content-type", content_type), ("content-length", str(len(body)))]
    for event in (
        h11.Response(status_code=status, headers=headers, reason=b""),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        writer.write(connection.send(event) or b"")
