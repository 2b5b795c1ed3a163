"""Callers that do not wait for each other, against scripted servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.cli.benchmarks.open_loop import Callers, open_loop

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    return head + await reader.readexactly(length)


async def answer_once_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server does with connections that were idle: without a word."""
    await read_request(reader)
    writer.write(ANSWER)
    writer.close()


async def test_connections_that_the_server_closes_lose_no_request() -> None:
    async with server(answer_once_and_hang_up) as url, asyncio.timeout(20):
        samples = await open_loop(url, lambda number: b"{}", per_second=20, seconds=1.0, seed=3)
    assert len(samples) > 5
    assert all(sample.is_answered for sample in samples)


async def test_who_loses_patience_hangs_up_and_is_no_answer() -> None:
    hung_up = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        assert await reader.read() == b""
        hung_up.set()
        writer.close()

    async with server(never_answer) as url, asyncio.timeout(20):
        callers = Callers(url, patience_seconds=0.05)
        sample = await callers.ask(b"{}", began_at=0.0)
        await hung_up.wait()
    assert (sample.has_given_up, sample.is_answered, sample.status) == (True, False, 0)
    assert sample.seconds >= 0.05


async def test_headers_go_with_every_request() -> None:
    asked: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        writer.write(ANSWER)
        writer.close()

    async with server(note) as url, asyncio.timeout(20):
        await Callers(url, headers="authorization: Bearer k\r\n").ask(b"{}", began_at=0.0)
    assert b"\r\nauthorization: Bearer k\r\ncontent-length: 2\r\n\r\n{}" in asked[0]
