"""A load generator for the gateway: what clients see of it, over connections that cost little.

It measures and counts, nothing else. The shapes of the load: a fixed rate, whatever the answers do, and as fast as
the answers come.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.cli.benchmarks.http_connection import HttpConnection

_AFTER_AN_ERROR_SECONDS = 0.1
"""A refused caller of the closed loop that asks again at once would only measure refusals."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run saw. Latencies in seconds, to the first token of a stream or to the whole answer."""

    requests: int = 0
    errors: list[str] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


async def ask(connection: HttpConnection, body: bytes, tally: Tally) -> bool:
    """Send one request and read its answer to the end. Whether it was answered."""
    started_at = time.perf_counter()
    answer = await connection.post(body)
    if answer.status != 200 or b'"error":{' in answer.body:
        tally.errors.append(f"{answer.status} {bytes(answer.body[-200:])!r}")
        return False
    tally.requests += 1
    if answer.first_content_at is not None:
        tally.first_token_seconds.append(answer.first_content_at - started_at)
    return True


def chat_body(number: int, *, model: str, max_tokens: int, stream: bool) -> bytes:
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
    idle: asyncio.Queue[HttpConnection] = asyncio.Queue()
    opened = [await HttpConnection.open(base_url) for _ in range(connections)]
    for connection in opened:
        idle.put_nowait(connection)

    async def one(number: int) -> None:
        connection = await idle.get()
        await ask(connection, chat_body(number, model=model, max_tokens=max_tokens, stream=True), tally)
        idle.put_nowait(connection)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, begin + number / per_second - time.perf_counter()))
            group.create_task(one(number))
    for connection in opened:
        connection.close()
    return tally


async def closed_loop(
    base_url: str, body: Callable[[int], bytes], *, seconds: float, concurrency: int
) -> tuple[Tally, float]:
    """`concurrency` connections ask as fast as they are answered. Returns the tally and the seconds it took."""
    tally = Tally()
    begin = time.perf_counter()

    async def loop(index: int) -> None:
        connection = await HttpConnection.open(base_url)
        number = index
        while time.perf_counter() - begin < seconds:
            if not await ask(connection, body(number), tally):
                await asyncio.sleep(_AFTER_AN_ERROR_SECONDS)
            number += concurrency
        connection.close()

    async with asyncio.TaskGroup() as group:
        for index in range(concurrency):
            group.create_task(loop(index))
    return tally, time.perf_counter() - begin
