"""The supervisor as operators run it: a process of its own that ends well on SIGTERM."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.cli.embedded.ports import choose_port
from tests.integration.services.supervisor.conftest import Installation, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(port: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "services.supervisor"],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PENSTOCK_SUPERVISOR_PORT": str(port), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


async def get(url: str) -> httpx.Response | None:
    async with httpx.AsyncClient(timeout=2.0) as client:
        try:
            return await client.get(url)
        except httpx.TransportError:
            return None


async def test_it_becomes_ready_sees_a_worker_and_ends_with_zero_on_sigterm(
    installation: Installation, processes: list[subprocess.Popen[str]]
) -> None:
    port = choose_port(0)
    process = start(
        port,
        PENSTOCK_KAFKA_BOOTSTRAP_SERVERS=installation.kafka.bootstrap_servers,
        PENSTOCK_KAFKA_TOPIC_PREFIX=installation.kafka.topic_prefix,
        PENSTOCK_REDIS_URL=installation.redis.url,
        PENSTOCK_REDIS_KEY_PREFIX=installation.redis.key_prefix,
    )
    processes.append(process)

    async def ready() -> bool:
        response = await get(f"http://127.0.0.1:{port}/readyz")
        return response is not None and response.status_code == 200

    await until(ready, "the process is ready")
    await installation.worker().beat()

    async def workers() -> Any:
        response = await get(f"http://127.0.0.1:{port}/fleet")
        return response is not None and response.json()["workers"]

    shown = await until(workers, "the worker is shown")
    assert shown[0]["worker_id"] == "w-0"
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=15)
    assert process.returncode == 0, log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["level"] for line in lines} <= {"info"}, log
    assert [line["message"] for line in lines if line["message"].startswith("supervisor ")] == [
        "supervisor started",
        "supervisor stopped",
    ]
    assert all(line["service"] == "supervisor" for line in lines)


async def test_without_kafka_and_redis_it_lives_says_why_it_is_not_ready_and_still_ends_well(
    processes: list[subprocess.Popen[str]],
) -> None:
    port = choose_port(0)
    process = start(
        port,
        PENSTOCK_KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{choose_port(0)}",
        PENSTOCK_REDIS_URL=f"redis://127.0.0.1:{choose_port(0)}/0",
    )
    processes.append(process)
    response = await until(lambda: get(f"http://127.0.0.1:{port}/readyz"), "it answers")
    assert response.status_code == 503
    assert len(response.json()["problems"]) == 2
    assert (await get(f"http://127.0.0.1:{port}/livez")).status_code == 200  # type: ignore[union-attr]
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
