"""Quantized weights and cache through the platform: what is served is said, and streams stay with their numbers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.service_process import ServiceProcess
from services.cli.embedded.stack import EmbeddedStack
from services.cli.stack_state import running_stack
from tests.fixtures.stack import READY_SECONDS, TINY, engine_process_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

PENSTOCK = [sys.executable, "-P", "-m", "services.cli"]
BODY = {
    "model": TINY,
    "messages": [{"role": "user", "content": "Tell me a long story about rivers."}],
    "max_tokens": 900,
    "temperature": 0,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}


def test_up_quantizes_serves_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    data_dir, log = tmp_path / "data", tmp_path / "up.log"
    ports = [item for name in ("http", "supervisor", "kafka", "redis") for item in (f"--{name}-port", "0")]
    options = ["--model", str(tiny_model), "--dtype", "bfloat16", "--quantization", "awq-int4", "--kv-cache", "int8"]
    command = [*PENSTOCK, "up", *options, "--data-dir", str(data_dir), *ports]
    with log.open("w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 2 * READY_SECONDS
        while "Penstock is up" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        state = running_stack(data_dir)
        assert state is not None
        body = {"model": TINY, "prompt": "Where does the water go?", "max_tokens": 12, "ignore_eos": True}
        answer = httpx.post(f"{state.http_url}/v1/completions", json=body, timeout=60).json()
        assert answer["usage"]["completion_tokens"] == 12
        (model,) = httpx.get(f"{state.http_url}/v1/models", timeout=10).json()["data"]
        assert model["served_as"] == [
            {"dtype": "bfloat16", "weights": "int4-g64-asym", "kv_cache": "int8", "workers": 1}
        ]
        shown = subprocess.run(
            [*PENSTOCK, "fleet", "--json", "--data-dir", str(data_dir)], capture_output=True, text=True, check=True
        )
        (worker,) = json.loads(shown.stdout)["workers"]
        assert (worker["weights"], worker["kv_cache"]) == ("int4-g64-asym", "int8")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def pieces(client: openai.AsyncOpenAI) -> AsyncIterator[str]:
    stream: Any = await client.chat.completions.create(**BODY)  # type: ignore[call-overload]
    async for chunk in stream:
        for choice in chunk.choices:
            yield choice.delta.content or ""


def busiest(workers: list[ServiceProcess], before: dict[int | None, float]) -> ServiceProcess:
    return max(workers, key=lambda worker: seconds_of_engine(worker) - before[worker.pid])


def seconds_of_engine(worker: ServiceProcess) -> float:
    return sum(engine_process_of(worker).cpu_times()[:2])


async def text_with_a_fault(client: openai.AsyncOpenAI, fault: Callable[[], None]) -> str:
    text = []
    async for piece in pieces(client):
        text.append(piece)
        if len(text) == 20:
            fault()
    return "".join(text)


@pytest.mark.asyncio
async def test_a_worker_with_other_numbers_passes_a_stream_on_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    """Whichever of the two had it goes on with it when it is back: the text is its own to the end."""
    numbers = ({"PENSTOCK_WORKER_QUANTIZATION": "rtn-int8"}, {"PENSTOCK_WORKER_QUANTIZATION": "rtn-int4-g64"})
    pool = PoolPlan(workers=2, model=tiny_model, served_model_name=TINY, dtype="float32", worker_environments=numbers)
    plan = StackPlan(
        data_dir=tmp_path / "stack",
        pools=(pool,),
        request_partitions=4,
        environment={"PENSTOCK_REDIS_FOREIGN_PATIENCE_MS": "120000"},
    )
    async with EmbeddedStack(plan) as stack:
        await stack.wait_until_ready(timeout_seconds=READY_SECONDS)
        client = openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=120)
        texts: dict[int, str] = {}
        for _ in range(12):  # each at least once, undisturbed
            if len(texts) == 2:
                break
            before = {worker.pid: seconds_of_engine(worker) for worker in stack.workers}
            text = "".join([piece async for piece in pieces(client)])
            texts[stack.workers.index(busiest(stack.workers, before))] = text
        assert set(texts) == {0, 1}
        assert texts[0] != texts[1]

        struck: list[int] = []
        before = {worker.pid: seconds_of_engine(worker) for worker in stack.workers}

        def kill_who_has_it() -> None:
            worker = busiest(stack.workers, before)
            assert worker.pid is not None
            struck.append(stack.workers.index(worker))
            os.kill(worker.pid, signal.SIGKILL)

        found = await text_with_a_fault(client, kill_who_has_it)
        assert found == texts[struck[0]]
        other = stack.workers[1 - struck[0]]
        said = [line for line in other.log_file.read_text().splitlines() if "stream_of_another_engine" in line]
        assert said, "the other worker never saw the stream"
        await asyncio.wait_for(client.close(), 10)
