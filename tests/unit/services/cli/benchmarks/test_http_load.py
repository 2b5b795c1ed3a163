"""The load generator against a scripted server: what it counts, and that it counts errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.cli.benchmarks.http_load import closed_loop, fixed_rate

Answer = Callable[[dict[str, object], asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length")
                )
                await answer(json.loads(await reader.readexactly(length)), writer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await listening.wait_closed()


def chunk(text: str) -> bytes:
    data = f'data: {{"choices":[{{"delta":{{"content":"{text}"}}}}]}}\n\n'.encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def stream_three(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(chunk("") + chunk("a") + chunk("b") + chunk("c") + b"0\r\n\r\n")


async def refuse(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}")


async def fail_in_the_middle(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
    failure = b'data: {"error":{"message":"lost"}}\n\n'
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("a"))
    writer.write(f"{len(failure):x}\r\n".encode() + failure + b"\r\n0\r\n\r\n")


async def test_every_stream_is_counted_and_has_the_time_of_its_first_token() -> None:
    async with server(stream_three) as url:
        tally = await fixed_rate(url, model="m", per_second=200, seconds=0.05, max_tokens=3, connections=2)
    assert (tally.requests, tally.errors) == (10, [])
    assert len(tally.first_token_seconds) == 10


async def test_a_stream_that_ends_in_an_error_is_an_error() -> None:
    async with server(fail_in_the_middle) as url:
        tally = await fixed_rate(url, model="m", per_second=100, seconds=0.03, max_tokens=3, connections=2)
    assert tally.requests == 0
    assert len(tally.errors) == 3
    assert "lost" in tally.errors[0]


async def test_a_refusal_is_an_error_and_no_request_answered() -> None:
    async with server(refuse) as url:
        tally, seconds = await closed_loop(url, lambda number: b"{}", seconds=0.3, concurrency=2)
    assert tally.requests == 0
    assert tally.errors[0].startswith("503")
    assert seconds >= 0.3


async def test_the_body_asks_for_what_the_run_needs() -> None:
    seen: list[dict[str, object]] = []

    async def note(body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        seen.append(body)
        await stream_three(body, writer)

    async with server(note) as url:
        await fixed_rate(url, model="m", per_second=100, seconds=0.02, max_tokens=7)
    assert len(seen) == 2
    assert all(body["max_tokens"] == 7 and body["stream"] is True and body["model"] == "m" for body in seen)
