"""What the watched stack goes through: load of every kind, then every fault that a board has a panel for, twice.

Twice, since a counter that is born with its first event has no rate yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from redis.asyncio import Redis

from services.cli.commands.orders import give_order
from services.cli.embedded.service_process import ServiceProcess
from services.cli.embedded.stack import EmbeddedStack
from services.cli.foreign_clients.kafka_client import post
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames
from tests.fixtures.stack import TINY, engine_process_of

LOAD_SECONDS = 25.0
DARK = "dark"
"""The pool whose spans are lost."""
_SETTLE_SECONDS = 4.0
_READY_SECONDS = 90.0
_SHARED_PROMPT = "You answer briefly. " * 12
_STREAMS = 12
"""More than the caches of the workers hold, so that some wait and some are preempted."""


@dataclass
class Windows:
    """When what happened, as instants of the wall clock."""

    started: float = 0.0
    load_from: float = 0.0
    load_until: float = 0.0
    ended: float = 0.0


@asynccontextmanager
async def load(stack: EmbeddedStack) -> AsyncIterator[None]:
    """Streams, whole answers and Kafka records without end; what faults do to them is not looked at here."""
    numbers = itertools.count()

    async def converse(client: httpx.AsyncClient, is_streamed: bool) -> None:
        while True:
            body = {
                "model": TINY,
                "messages": [{"role": "user", "content": f"{_SHARED_PROMPT}{next(numbers) % 7}"}],
                # Some are long: a worker that dies has requests in hand.
                "max_tokens": 60 if next(numbers) % 3 else 400,
                "ignore_eos": True,
                "stream": is_streamed,
                "speculation": "prompt-lookup",
            }
            with contextlib.suppress(httpx.HTTPError):
                await client.post("/v1/chat/completions", json=body)
            await asyncio.sleep(0.05)

    async def produce() -> None:
        topics = [TopicNames().requests(pool, lane) for pool in ("default", DARK) for lane in Lane]
        while True:
            for topic in topics:
                await asyncio.to_thread(post, stack.addresses.kafka, topic, [b'{"prompt": "hi", "max_tokens": 20}'] * 4)
            await asyncio.sleep(1)

    async with httpx.AsyncClient(base_url=stack.http_url, timeout=60) as client:
        tasks = [asyncio.create_task(converse(client, number % 2 == 0)) for number in range(_STREAMS)]
        tasks.append(asyncio.create_task(produce()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def run(stack: EmbeddedStack) -> Windows:
    windows = Windows(started=time.time())
    await stack.wait_until_ready(timeout_seconds=_READY_SECONDS)
    async with load(stack):
        windows.load_from = time.time()
        await asyncio.sleep(LOAD_SECONDS)
        windows.load_until = time.time()
        for _ in range(2):
            await _faults(stack)
            await stack.wait_until_ready(timeout_seconds=_READY_SECONDS)
            await asyncio.sleep(_SETTLE_SECONDS)
    windows.ended = time.time()
    return windows


async def _faults(stack: EmbeddedStack) -> None:
    await _poison(stack)
    await _leave(stack)
    for worker in stack.workers[:1]:
        with contextlib.suppress(ValueError):  # its engine may be starting already
            engine_process_of(worker).kill()
    await asyncio.sleep(_SETTLE_SECONDS)
    _kill(stack.workers_of("default")[0])
    await asyncio.sleep(_SETTLE_SECONDS)
    await stack.wait_until_ready(timeout_seconds=_READY_SECONDS)
    await _kill_a_worker_while_kafka_is_away(stack)
    await stack.wait_until_ready(timeout_seconds=_READY_SECONDS)
    for supervisor in [service for service in stack.services if service.module == "services.supervisor"]:
        if supervisor.pid is not None:
            os.kill(supervisor.pid, signal.SIGKILL)
    await stack.wait_until_ready(timeout_seconds=_READY_SECONDS)
    assert stack.redis_server is not None
    await asyncio.gather(_freeze(stack.redis_server.process_id, 6.0), _ask_in_vain(stack))
    await _quarantine(stack)
    await _empty_the_ledger(stack)


async def _poison(stack: EmbeddedStack) -> None:
    """Records that nobody can decode, and some that name a model nobody has."""
    topic = TopicNames().requests("default", Lane.INTERACTIVE)
    bad = [b"\xff\xfe", b'{"prompt": "hi", "model": "none"}'] * 4
    await asyncio.to_thread(post, stack.addresses.kafka, topic, bad)


async def _leave(stack: EmbeddedStack) -> None:
    """A client that reads a little of a stream and goes away."""
    body = {"model": TINY, "prompt": "hi", "max_tokens": 300, "stream": True, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=stack.http_url, timeout=30) as client:
        with contextlib.suppress(httpx.HTTPError):
            async with client.stream("POST", "/v1/completions", json=body) as response:
                async for _ in response.aiter_lines():
                    break


async def _ask_in_vain(stack: EmbeddedStack) -> None:
    """New requests while nobody can answer: the callers of the load wait for their old ones."""
    await asyncio.sleep(1.0)
    body = {"model": TINY, "prompt": "hi", "max_tokens": 4}
    async with httpx.AsyncClient(base_url=stack.http_url, timeout=20) as client:
        asked = [client.post("/v1/completions", json=body) for _ in range(3)]
        await asyncio.gather(*asked, return_exceptions=True)


async def _quarantine(stack: EmbeddedStack) -> None:
    for order in ("quarantine", "resume"):
        await asyncio.to_thread(
            give_order, stack.supervisor_urls, stack.workers[0].name.removeprefix("worker-"), order, "a test", key=None
        )
        await asyncio.sleep(3.0)


async def _empty_the_ledger(stack: EmbeddedStack) -> None:
    """As a Redis that was started again without its data: it is written anew."""
    async with Redis.from_url(stack.addresses.redis) as redis:
        await redis.flushall()
    await asyncio.sleep(_SETTLE_SECONDS)


async def _kill_a_worker_while_kafka_is_away(stack: EmbeddedStack) -> None:
    """The take-over fails at first, and works when Kafka is back."""
    assert stack.kafka_server is not None
    _kill(stack.workers_of("default")[-1])  # not the same one: who dies three times is given up
    await asyncio.gather(_freeze(stack.kafka_server.pid, 14.0), _ask_in_vain(stack))


def _kill(worker: ServiceProcess) -> None:
    if worker.pid is not None:
        os.kill(worker.pid, signal.SIGKILL)


async def _freeze(pid: int | None, seconds: float) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
