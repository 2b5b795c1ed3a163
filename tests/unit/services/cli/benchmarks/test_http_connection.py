"""The load generator's connection: when an answer is over, when its first text came, and what a hang-up is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.cli.benchmarks.http_connection import HttpConnection

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str) -> bytes:
    return chunk(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode())


class Server:
    """Answers what a test writes; notes what was asked."""

    def __init__(self) -> None:
        self.asked = bytearray()
        self.connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.set_result(writer)
        while data := await reader.read(65_536):
            self.asked += data
        writer.close()

    async def write(self, *parts: bytes) -> None:
        """Each part arrives by itself."""
        writer = await self.connected
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)  # lets the kernel deliver it alone; nothing is asserted about the time


@asynccontextmanager
async def exchange(body: bytes = b"{}") -> AsyncIterator[tuple[Server, HttpConnection, asyncio.Task[object]]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    connection = await HttpConnection.open(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    asking = asyncio.create_task(connection.post(body))
    try:
        async with asyncio.timeout(10):
            yield server, connection, asking
    finally:
        connection.close()
        listening.close()


async def test_the_body_is_posted_with_its_length() -> None:
    async with exchange(b'{"model":"m"}') as (server, _, asking):
        await server.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await asking
        head, _, body = bytes(server.asked).partition(b"\r\n\r\n")
        assert body == b'{"model":"m"}'
        assert b"content-length: 13" in head
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")


@pytest.mark.parametrize("cut", [1, 20, 45, 60])
async def test_a_whole_answer_is_over_at_its_length_however_it_is_cut(cut: int) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 11\r\n\r\nhello world"
    async with exchange() as (server, _, asking):
        await server.write(answer[:cut], answer[cut:])
        result = await asking
    assert (result.status, bytes(result.body)) == (503, b"hello world")


async def test_a_stream_is_over_at_its_last_chunk_and_its_first_text_has_a_time() -> None:
    async with exchange() as (server, _, asking):
        loop = asyncio.get_running_loop()
        await server.write(STREAM_HEAD, event(""), event("a") + event("b"))
        assert not asking.done()
        began = loop.time()
        await server.write(chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")
        result = await asking
    assert result.status == 200
    assert result.first_content_at is not None
    assert result.first_content_at <= began + 1
    assert result.body.count(b'"content"') == 3


async def test_an_empty_delta_is_no_text() -> None:
    async with exchange() as (server, _, asking):
        await server.write(STREAM_HEAD + event("") + b"0\r\n\r\n")
        assert (await asking).first_content_at is None


async def test_a_server_that_hangs_up_early_is_an_error() -> None:
    async with exchange() as (server, _, asking):
        await server.write(STREAM_HEAD + event("a"))
        (await server.connected).transport.abort()
        with pytest.raises(ConnectionError, match="hung up"):
            await asking


async def test_a_connection_asks_again_after_an_answer() -> None:
    async with exchange() as (server, connection, asking):
        await server.write(STREAM_HEAD + event("a") + b"0\r\n\r\n")
        await asking
        again = asyncio.create_task(connection.post(b"[]"))
        await server.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")
        assert bytes((await again).body) == b"abc"


async def test_a_connection_that_the_server_has_closed_is_not_usable_and_says_so_at_once() -> None:
    async with exchange() as (server, connection, asking):
        await server.write(STREAM_HEAD + event("a") + b"0\r\n\r\n")
        await asking
        (await server.connected).close()
        while not connection.is_lost:
            await asyncio.sleep(0.005)
        assert not connection.is_usable
        with pytest.raises(ConnectionError):
            await connection.post(b"{}")


async def test_a_refusal_says_when_to_come_back() -> None:
    async with exchange() as (server, _, asking):
        await server.write(b"HTTP/1.1 503 Busy\r\nRetry-After-Ms: 1500\r\nContent-Length: 2\r\n\r\n{}")
        answer = await asking
    assert (answer.status, answer.retry_after_seconds) == (503, 1.5)  # type: ignore[attr-defined]
