"""The embedded stack with the null engine: starts, heals, scales, uses foreign servers, leaves nothing behind."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.service_process import ServiceState
from services.cli.embedded.stack import EmbeddedStack

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(240)]

NULL_POOL = PoolPlan(served_model_name="null")


async def eventually(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def answers(stack: EmbeddedStack) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(
            f"{stack.http_url}/v1/completions", json={"model": "null", "prompt": "water", "max_tokens": 3}
        )


def family() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


async def test_a_stack_starts_heals_scales_and_leaves_no_process(tmp_path: Path) -> None:
    before = family()
    lines: list[str] = []
    plan = StackPlan(data_dir=tmp_path, pools=(NULL_POOL,), request_partitions=4)
    async with EmbeddedStack(plan, report=lines.append) as stack:
        await stack.wait_until_ready()
        assert (await answers(stack)).status_code == 200
        assert {service.name for service in stack.services} == {"supervisor-0", "gateway-0", "worker-default-0"}
        assert any("Apache Kafka listens on" in line for line in lines)

        gateway = stack.service("gateway-0")
        killed = gateway.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: gateway.pid not in (None, killed))
        await stack.wait_until_ready()
        assert (await answers(stack)).status_code == 200
        assert gateway.restarts == 1

        second = stack.start_worker(NULL_POOL)
        await stack.wait_until_ready()
        assert await stack.stop_service(second, grace_seconds=30) == 0
        assert second.state is ServiceState.STOPPED
        assert [worker.name for worker in stack.workers] == ["worker-default-0"]
        assert (await answers(stack)).status_code == 200
    assert family() <= before


async def test_servers_that_already_run_are_used_and_left_running(
    tmp_path: Path, kafka_bootstrap: str, redis_url: str
) -> None:
    plan = StackPlan(
        data_dir=tmp_path,
        pools=(NULL_POOL,),
        kafka=kafka_bootstrap,
        redis=redis_url,
        request_partitions=2,
        environment={
            "PENSTOCK_KAFKA_TOPIC_PREFIX": f"{tmp_path.name}.",
            "PENSTOCK_KAFKA_GROUP_PREFIX": f"{tmp_path.name}.",
            "PENSTOCK_REDIS_KEY_PREFIX": f"{tmp_path.name}:",
        },
    )
    async with EmbeddedStack(plan) as stack:
        await stack.wait_until_ready()
        assert (stack.kafka_server, stack.redis_server) == (None, None)
        assert (await answers(stack)).status_code == 200
    async with EmbeddedStack(plan) as again:
        await again.wait_until_ready()
        assert (await answers(again)).status_code == 200


async def test_a_service_that_refuses_its_settings_ends_the_wait_with_its_words(tmp_path: Path) -> None:
    plan = StackPlan(data_dir=tmp_path, pools=(NULL_POOL,), environment={"PENSTOCK_GATEWAY_BODY_LIMT_BYTES": "5"})
    async with EmbeddedStack(plan) as stack:
        with pytest.raises(CommandFailed, match=r"gateway-0 refused its settings.*PENSTOCK_GATEWAY_BODY_LIMIT_BYTES"):
            await stack.wait_until_ready()


async def test_a_worker_that_dies_at_every_start_ends_the_wait(tmp_path: Path) -> None:
    broken = tmp_path / "checkpoint"
    broken.mkdir()
    (broken / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    pool = PoolPlan(model=broken, served_model_name="broken")
    async with EmbeddedStack(StackPlan(data_dir=tmp_path / "data", pools=(pool,))) as stack:
        with pytest.raises(CommandFailed, match="worker-default-0"):
            await stack.wait_until_ready(timeout_seconds=60)
