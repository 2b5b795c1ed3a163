"""A tiny HTTP server for `/livez`, `/readyz` and `/metrics`. Knows HTTP's first line and one header; judges nothing.

`/livez` answers as long as the event loop runs. `/readyz` names every reason why not: a reachable broker proves
nothing (the engine may be dead, the partitions elsewhere, a record stuck).
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared.telemetry.metrics_http import render_metrics

_MAX_POLL_AGE_SECONDS = 10.0
_REQUEST_SECONDS = 5.0
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """What readiness is made of."""

    is_engine_ready: bool
    is_draining: bool
    num_partitions: int
    last_poll_age_seconds: float
    oldest_unfinished_age_seconds: float
    max_unfinished_age_seconds: float

    def problems(self) -> list[str]:
        problems = []
        if self.is_draining:
            problems.append("draining")
        if not self.is_engine_ready:
            problems.append("the engine is not ready")
        if self.num_partitions == 0:
            problems.append("no partition is assigned")
        if self.last_poll_age_seconds > _MAX_POLL_AGE_SECONDS:
            problems.append(f"Kafka was last polled {self.last_poll_age_seconds:.0f} s ago")
        if self.oldest_unfinished_age_seconds > self.max_unfinished_age_seconds:
            problems.append(f"a record is unfinished for {self.oldest_unfinished_age_seconds:.0f} s")
        return problems


def _accepted(head: bytes) -> str:
    """The `Accept` header: a Prometheus that wants exemplars asks for OpenMetrics in it."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.decode("latin-1")
    return ""


class HealthServer:
    """An async context manager; `port` is known inside it."""

    def __init__(self, host: str, port: int, readiness: Callable[[], Readiness]) -> None:
        self._host = host
        self._port = port
        self._readiness = readiness
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self.respond(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def respond(self, head: bytes) -> bytes:
        """The whole response to a request's head."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            status, kind, body = 405, "text/plain", b"GET only\n"
        elif path == b"/metrics":
            kind, body = render_metrics(_accepted(head))
            status = 200
        elif path == b"/livez":
            status, kind, body = 200, "text/plain", b"alive\n"
        elif path == b"/readyz":
            problems = self._readiness().problems()
            status, kind = 503 if problems else 200, "application/json"
            body = json.dumps({"ready": not problems, "problems": problems}).encode()
        else:
            status, kind, body = 404, "text/plain", b"/livez, /readyz, /metrics\n"
        lines = (
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == b"HEAD" else body)
