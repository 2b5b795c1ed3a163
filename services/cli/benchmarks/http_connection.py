"""One keep-alive HTTP/1.1 connection that posts bodies and watches the answer arrive. It costs little itself.

An asyncio protocol instead of streams: the machine's cores are shared with what is measured, and a streamed answer
of many events would otherwise cost the generator more than the gateway. Knows bytes, no latencies and no tallies.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Self, cast
from urllib.parse import urlsplit

_CONTENT = re.compile(rb'"content":"[^"]')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after-ms: *(\d+)", re.IGNORECASE)
_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"0\r\n\r\n"
_IDLE_SECONDS = 2.0


class Answer:
    """What came back. `first_content_at` is the arrival of the first event that has text in it."""

    __slots__ = ("body", "first_content_at", "retry_after_seconds", "status")

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.first_content_at: float | None = None
        self.retry_after_seconds: float | None = None


class HttpConnection(asyncio.Protocol):
    """`answer = await connection.post(body)`, one at a time."""

    def __init__(self, host: str) -> None:
        self._head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._answered: asyncio.Future[Answer] | None = None
        self._length: int | None = None
        self._idle_since = time.perf_counter()
        self.is_lost = False

    @property
    def is_usable(self) -> bool:
        """Servers close what has been idle for some seconds; a request on its way then would never be answered."""
        return not self.is_lost and time.perf_counter() - self._idle_since < _IDLE_SECONDS

    @property
    def answer(self) -> Answer:
        """As far as it has come."""
        return self._answer

    @classmethod
    async def open(cls, base_url: str) -> Self:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        assert parts.port is not None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(parts.netloc), parts.hostname, parts.port)
        return connection

    async def post(self, body: bytes, headers: str = "") -> Answer:
        """`headers`: lines that end in CRLF. Raises `ConnectionError` when the server hangs up first."""
        assert self._transport is not None
        if self.is_lost:
            raise ConnectionError("the server has hung up")
        self._answer, self._length = Answer(), None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(f"{self._head}{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
        return await self._answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server hung up before it had answered"))

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        answer.body += data
        if not answer.status and not self._read_head():
            return
        if self._length is None:
            if answer.first_content_at is None and _CONTENT.search(answer.body):
                answer.first_content_at = time.perf_counter()
            is_over = answer.body.endswith(_LAST_CHUNK)
        else:
            is_over = len(answer.body) >= self._length
            answer.first_content_at = time.perf_counter()
        if is_over and self._answered is not None and not self._answered.done():
            self._idle_since = time.perf_counter()
            self._answered.set_result(answer)

    def _read_head(self) -> bool:
        body = self._answer.body
        end = body.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(body[:end])
        if _CHUNKED not in head.lower():
            length = _LENGTH.search(head)
            self._length = int(length[1]) if length else 0
        self._answer.status = int(head[9:12])
        retry_after = _RETRY_AFTER.search(head)
        self._answer.retry_after_seconds = int(retry_after[1]) / 1_000 if retry_after else None
        del body[: end + 4]
        return True
