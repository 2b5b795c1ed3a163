"""The load's client on a server that never ends a stream."""

import asyncio
import contextlib
import random

from tests.chaos.asks import Way
from tests.chaos.http_load import HttpLoad
from tests.chaos.load_mix import null_ask
from tests.chaos.oracle import judge

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: 1\r\nconnection: close\r\n\r\n"


async def _ping_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        writer.write(_HEAD)
        while not writer.is_closing():
            writer.write(b": ping\n\n")
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_a_stream_that_only_pings_is_given_up_when_patience_ends_and_counts_as_lost() -> None:
    async with await asyncio.start_server(_ping_for_ever, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = HttpLoad([f"http://127.0.0.1:{port}"], random.Random(1), patience_seconds=0.3)
        ask = null_ask("a", Way.STREAM, "hi", seed=1, num_tokens=10)
        async with asyncio.timeout(10):
            await load.stream(ask)
        await load.close()
    assert ask.is_accepted
    assert judge([ask], []).lost
