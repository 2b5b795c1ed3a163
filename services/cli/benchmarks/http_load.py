"""A load generator for the gateway that costs little itself: raw HTTP/1.1 on asyncio streams, one connection each.

It measures what a client sees and nothing else; the machine's two cores are shared with what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run saw. Latencies in seconds; `tokens` counts streamed content events."""

    requests: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


class Connection:
    """One keep-alive connection that sends chat requests one after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    @classmethod
    async def open(cls, base_url: str) -> Self:
        parts = urlsplit(base_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        return cls(reader, writer, parts.netloc)

    async def ask(self, body: bytes, tally: Tally) -> None:
        """Send one request and read its answer to the end."""
        started_at = time.perf_counter()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: "
            + self._host.encode()
            + b"\r\ncontent-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        if b"transfer-encoding: chunked" in head.lower():
            await self._read_stream(started_at, tally)
        else:
            payload = await self._reader.readexactly(_content_length(head))
            if status != 200:
                tally.errors.append(f"{status} {payload[:200]!r}")
                return
            tally.first_token_seconds.append(time.perf_counter() - started_at)
        tally.requests += 1

    async def _read_stream(self, started_at: float, tally: Tally) -> None:
        is_first = True
        while size := int(await self._reader.readline(), 16):
            data = await self._reader.readexactly(size + 2)
            tokens = data.count(b'"content":"') - data.count(b'"content":""')
            if tokens > 0:
                tally.tokens += tokens
                if is_first:
                    tally.first_token_seconds.append(time.perf_counter() - started_at)
                    is_first = False
            if b'"error"' in data:
                tally.errors.append(data[:200].decode("utf-8", "replace"))
        await self._reader.readline()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("the answer has neither a length nor chunks")


def chat_body(*, model: str, max_tokens: int, stream: bool, number: int) -> bytes:
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": f"request {number}"}],
            "max_tokens": max_tokens,
            "stream": stream,
            "ignore_eos": True,
        }
    ).encode()


async def fixed_rate(
    base_url: str, *, model: str, per_second: float, seconds: float, max_tokens: int, connections: int = 32
) -> Tally:
    """Open loop: requests leave on schedule whatever the answers do. Streams; measures time to first token."""
    tally = Tally()
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    opened = [await Connection.open(base_url) for _ in range(connections)]
    for connection in opened:
        idle.put_nowait(connection)

    async def one(number: int) -> None:
        connection = await idle.get()
        await connection.ask(chat_body(model=model, max_tokens=max_tokens, stream=True, number=number), tally)
        idle.put_nowait(connection)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, begin + number / per_second - time.perf_counter()))
            group.create_task(one(number))
    for connection in opened:
        await connection.close()
    return tally


async def closed_loop(
    base_url: str, *, model: str, seconds: float, max_tokens: int, concurrency: int, stream: bool
) -> tuple[Tally, float]:
    """`concurrency` connections ask as fast as they are answered. Returns the tally and the seconds it took."""
    tally = Tally()
    begin = time.perf_counter()

    async def loop(index: int) -> None:
        connection = await Connection.open(base_url)
        number = index
        while time.perf_counter() - begin < seconds:
            await connection.ask(chat_body(model=model, max_tokens=max_tokens, stream=stream, number=number), tally)
            number += concurrency
        await connection.close()

    async with asyncio.TaskGroup() as group:
        for index in range(concurrency):
            group.create_task(loop(index))
    return tally, time.perf_counter() - begin
