"""A stream stays with the numbers it began with: a worker that rounds otherwise refuses it and says so."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.service_process import ServiceProcess
from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import READY_SECONDS, TINY

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

ROUNDED = ({"PENSTOCK_WORKER_QUANTIZATION": "rtn-int8-a16"}, {"PENSTOCK_WORKER_QUANTIZATION": "rtn-int4-g64"})
"""Inputs are not rounded: where they are, a stream that is taken up again may round one of them to the other side."""
PATIENCE = {"PENSTOCK_REDIS_FOREIGN_PATIENCE_MS": "200000"}
BODY = {
    "model": TINY,
    "messages": [{"role": "user", "content": "Tell me a long story about rivers."}],
    "max_tokens": 900,
    "temperature": 0,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}


async def until(what: str, is_so: Callable[[], Any], *, seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not await is_so():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)


class Pool:
    """Two workers with other numbers each. An operator's quarantine says which of them takes requests."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self._url = stack.supervisor_url
        self._client = openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=200)

    async def order(self, worker: ServiceProcess, order: str) -> None:
        """Returns when the worker says that it obeys."""
        name = worker.name.removeprefix("worker-")
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as supervisor:

            async def obeys() -> bool:
                workers = (await supervisor.get("/fleet")).json()["workers"]
                said = {beat["worker_id"]: beat["is_quarantined"] for beat in workers}
                return said.get(name) is (order == "quarantine")

            (await supervisor.post(f"/workers/{name}/{order}")).raise_for_status()
            await until(f"{name} obeys {order}", obeys)

    async def only(self, chosen: ServiceProcess, other: ServiceProcess) -> None:
        await self.order(chosen, "resume")
        await self.order(other, "quarantine")

    async def text(self, after_twenty_pieces: Callable[[], None] = lambda: None) -> str:
        pieces: list[str] = []
        stream: Any = await self._client.chat.completions.create(**BODY)  # type: ignore[call-overload]
        async for chunk in stream:
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                if len(pieces) == 20:
                    after_twenty_pieces()
        assert len(pieces) > 20, "the stream was over before anything happened to it"
        return "".join(pieces)


async def refusals(worker: ServiceProcess) -> list[str]:
    return [line for line in worker.log_file.read_text().splitlines() if "stream_of_another_engine" in line]


async def test_a_worker_with_other_numbers_never_goes_on_with_a_stream(tiny_model: Path, tmp_path: Path) -> None:
    """Its own worker is frozen, and killed when the other one has seen the stream: it goes on when it is back."""
    plan = PoolPlan(workers=2, model=tiny_model, served_model_name=TINY, dtype="float32", worker_environments=ROUNDED)
    stack_plan = StackPlan(data_dir=tmp_path / "stack", pools=(plan,), request_partitions=4, environment=PATIENCE)
    async with EmbeddedStack(stack_plan) as stack:
        await stack.wait_until_ready(timeout_seconds=READY_SECONDS)
        own, other = stack.workers
        pool = Pool(stack)
        await pool.only(other, own)
        contradicting = await pool.text()
        await pool.only(own, other)
        expected = await pool.text()
        assert contradicting != expected

        frozen = asyncio.Event()

        def freeze() -> None:
            assert own.pid is not None
            os.kill(own.pid, signal.SIGSTOP)
            frozen.set()

        async with asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(pool.text(freeze))
            await frozen.wait()
            assert not await refusals(other)
            await pool.order(other, "resume")
            await until("the other worker says that the stream is not its own", lambda: refusals(other))
            assert not answer.done()
            assert own.pid is not None
            os.kill(own.pid, signal.SIGKILL)
        assert answer.result() == expected
        (said, *_) = await refusals(other)
        assert "rtn-int8-a16" in said
        assert "rtn-int4-g64" in said
