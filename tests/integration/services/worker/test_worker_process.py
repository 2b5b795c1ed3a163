"""The worker as its own process: bad settings, SIGTERM, kill -9 in mid-stream, an engine that is given up."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.worker.application import build_worker
from shared.ledger.ledger import Ledger
from tests.builders import tiny_checkpoint
from tests.integration.services.worker.test_worker import (
    DEADLINE_SECONDS,
    Installation,
    installation,  # noqa: F401  (the fixture)
    running,
)

pytestmark = [pytest.mark.kafka, pytest.mark.redis]
ROOT = Path(__file__).parents[4]


def environment(installation: Installation, **settings: str) -> dict[str, str]:  # noqa: F811
    ours = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": installation.kafka.bootstrap_servers,
        "PENSTOCK_KAFKA_TOPIC_PREFIX": installation.kafka.topic_prefix,
        "PENSTOCK_KAFKA_GROUP_PREFIX": installation.kafka.group_prefix,
        "PENSTOCK_KAFKA_SESSION_TIMEOUT_MS": "6000",
        "PENSTOCK_REDIS_URL": installation.redis.url,
        "PENSTOCK_REDIS_KEY_PREFIX": installation.redis.key_prefix,
        "PENSTOCK_WORKER_ENGINE": "null",
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **ours, **{f"PENSTOCK_WORKER_{name}": value for name, value in settings.items()}}


@contextlib.asynccontextmanager
async def worker_process(
    installation: Installation,  # noqa: F811
    **settings: str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.worker",
        env=environment(installation, **settings), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_logged(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        while text not in (line := (await process.stderr.readline()).decode()):
            assert line, f"the worker ended before it said {text}"


async def num_logged_tokens(installation: Installation) -> int:  # noqa: F811
    async with Ledger(installation.redis) as ledger:
        for incarnation in [*await _incarnations(installation)]:
            for owned in await ledger.owned(incarnation):
                snapshot = await ledger.attach(owned.request_id, channel="reader")
                if snapshot is not None:
                    return sum(len(chunk.token_ids) for chunk in snapshot.chunks if chunk.choice == 0)
    return 0


async def _incarnations(installation: Installation) -> list:  # noqa: F811
    from redis.asyncio import Redis

    async with Redis.from_url(installation.redis.url) as client:
        names = await client.smembers(f"{installation.redis.key_prefix}incarnations")
    return [name.decode() for name in names]


async def test_a_misspelt_setting_stops_the_start_with_the_right_name(installation: Installation) -> None:  # noqa: F811
    async with worker_process(installation, DRAIN_SECOND="1") as process:
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert process.returncode == 2
    assert b"PENSTOCK_WORKER_DRAIN_SECONDS" in errors


BROKEN_CHECKPOINTS = {
    "unknown architecture": ("config.json", b'{"architectures": ["NoSuchModel"]}', "NoSuchModel is not supported"),
    "config that is no JSON": ("config.json", b"{", "config.json"),
    "truncated weights": ("model.safetensors", b"\x40\x00\x00", "model.safetensors"),
    "pickled weights only": ("pytorch_model.bin", b"\x80\x04.", "pytorch_model.bin"),
    "broken tokenizer": ("tokenizer.json", b'{"model": 7}', "tokenizer.json"),
}


@pytest.mark.parametrize("damage", BROKEN_CHECKPOINTS)
async def test_a_broken_checkpoint_ends_the_worker_with_one_line_that_names_the_file(
    damage: str,
    installation: Installation,  # noqa: F811
    tmp_path: Path,
) -> None:
    name, content, complaint = BROKEN_CHECKPOINTS[damage]
    tiny_checkpoint(tmp_path)
    if name == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(content)
    async with worker_process(installation, ENGINE="real", MODEL=str(tmp_path)) as process:
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    text = errors.decode()
    assert process.returncode == 2, text
    assert "Traceback" not in text
    assert complaint in text.splitlines()[-1]


async def test_sigterm_drains_and_ends_with_zero(installation: Installation) -> None:  # noqa: F811
    async with worker_process(installation) as process:
        await until_logged(process, '"ready"')
        await installation.ask("before the end")
        await installation.until(lambda: len(installation.results) == 1)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
        assert process.returncode == 0


async def test_sigterm_while_the_engine_hangs_in_a_step_still_ends(installation: Installation) -> None:  # noqa: F811
    async with worker_process(installation, NULL_STEP_MS="60000", DRAIN_SECONDS="0.2") as process:
        await until_logged(process, '"ready"')
        await installation.ask("stuck")
        await until_logged(process, "partitions assigned")
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
        assert process.returncode == 0


async def test_kill_9_of_the_worker_in_mid_request_changes_no_token(installation: Installation) -> None:  # noqa: F811
    body = {"prompt": "the same", "max_tokens": 200, "seed": 3, "n": 2, "return_token_ids": True}
    value = json.dumps(body).encode()
    async with worker_process(installation, NULL_STEP_MS="20") as process:
        await installation.post(value, [("ce_id", b"disturbed")])
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await num_logged_tokens(installation) < 10:
                await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
    assert not installation.results
    # No supervisor here: Kafka's redelivery after the session timeout is the backstop.
    async with running(installation) as heir:
        await installation.post(value, [("ce_id", b"undisturbed")])
        await installation.until(lambda: len(installation.results) == 2)
        assert heir._engine.num_restarts == 0
    first, second = (
        json.loads(installation.result_of(name)["value"])["choices"] for name in ("undisturbed", "disturbed")
    )
    assert first == second


async def test_a_worker_whose_engine_is_given_up_hands_its_requests_over_and_ends_with_one(
    installation: Installation,  # noqa: F811
) -> None:
    settings = installation.settings(max_engine_restarts=0, null_step_ms=20.0)
    async with build_worker(settings, installation.kafka, installation.redis) as worker:
        task = asyncio.create_task(worker.run(asyncio.Event()))
        await installation.ask("orphan", max_tokens=300)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while worker._load().num_running == 0:
                await asyncio.sleep(0.02)
        worker._engine.kill()
        assert await asyncio.wait_for(task, DEADLINE_SECONDS) == 1
    resume = installation.names.resume("default")
    await installation.until(lambda: len(installation.records.get(resume, [])) == 1)
    async with running(installation):
        await installation.until(lambda: len(installation.results) == 1)
    assert json.loads(installation.result_of("orphan")["value"])["usage"]["completion_tokens"] == 300
