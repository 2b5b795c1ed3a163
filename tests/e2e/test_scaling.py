"""`penstock up --workers 1..3` follows its load: processes are started, and drained without anybody noticing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.scaler import keep_scaled
from services.cli.embedded.stack import EmbeddedStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

STEP_MS, SLOTS = 20, 4
SHORT_TERM = {
    "PENSTOCK_SUPERVISOR_SCALING": "default=1..3",
    "PENSTOCK_SUPERVISOR_SCALING_DRAIN_SECONDS": "2",
    "PENSTOCK_SUPERVISOR_SCALING_COOLDOWN_SECONDS": "2",
    "PENSTOCK_SUPERVISOR_SCALING_DOWN_AFTER_SECONDS": "4",
    "PENSTOCK_GATEWAY_ADMISSION": "false",
}


def scaled_plan(directory: Path) -> StackPlan:
    environment = {
        "PENSTOCK_WORKER_NULL_STEP_MS": str(STEP_MS),
        "PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(SLOTS),
    }
    pool = PoolPlan(served_model_name="null", environment=environment)
    return StackPlan(data_dir=directory, pools=(pool,), request_partitions=6, environment=SHORT_TERM)


async def keda_reads(client: httpx.AsyncClient) -> int:
    """As KEDA's metrics-api scaler does: `valueLocation: desired_workers` of GET /scaling/default."""
    async with asyncio.timeout(30):
        while not (response := await client.get("/scaling/default")).is_success:
            await asyncio.sleep(0.1)  # the supervisor has not decided yet
    return int(response.json()["desired_workers"])


async def num_ready(client: httpx.AsyncClient) -> int:
    workers: list[dict[str, Any]] = (await client.get("/fleet")).json()["workers"]
    return sum(worker["state"] == "ready" for worker in workers)


async def stream(client: httpx.AsyncClient, number: int, *, num_tokens: int) -> int:
    """The tokens of a whole stream; 0 for one that was not answered."""
    body = {"model": "null", "prompt": f"question {number}", "max_tokens": num_tokens, "stream": True}
    usage = {"stream_options": {"include_usage": True}, "ignore_eos": True}
    found = 0
    async with client.stream("POST", "/v1/completions", json={**body, **usage}) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                found = (event.get("usage") or {}).get("completion_tokens", found)
    return found


async def test_a_flood_starts_workers_and_its_end_drains_them_without_losing_a_stream(tmp_path: Path) -> None:
    stop = asyncio.Event()
    said: list[str] = []
    async with (
        EmbeddedStack(scaled_plan(tmp_path)) as stack,
        httpx.AsyncClient(base_url=stack.supervisor_url, timeout=10) as supervisor,
        httpx.AsyncClient(base_url=stack.http_url, timeout=180, limits=httpx.Limits(max_connections=None)) as callers,
        asyncio.TaskGroup() as tasks,
    ):
        await stack.wait_until_ready()
        tasks.create_task(keep_scaled(stack, "default", stop, report=said.append))
        assert await keda_reads(supervisor) == 1
        flood = [tasks.create_task(stream(callers, number, num_tokens=100)) for number in range(120)]
        async with asyncio.timeout(90):
            while await num_ready(supervisor) < 3 or await keda_reads(supervisor) < 3:
                await asyncio.sleep(0.1)
        assert set(await asyncio.gather(*flood)) == {100}

        async def keep_streaming() -> list[int]:
            """One stream at a time, wherever it goes, while workers leave."""
            found, number = [], 1_000
            while len(stack.workers) > 1:
                found.append(await stream(callers, number, num_tokens=50))
                number += 1
            return found

        async with asyncio.timeout(180):
            meanwhile = await keep_streaming()
        assert set(meanwhile) == {50}
        assert [worker.name for worker in stack.workers] == ["worker-default-0"]
        assert await keda_reads(supervisor) == 1
        stop.set()
    assert any("scaled up to 3" in line for line in said)
    assert any("scaled down to 1: worker-default-1 drains" in line for line in said)
