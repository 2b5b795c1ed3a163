"""The real engine behind the worker: its process killed in mid-request changes no token (float32, random weights)."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.builders import tiny_checkpoint
from tests.integration.services.worker.test_worker import (
    DEADLINE_SECONDS,
    Installation,
    installation,  # noqa: F401  (the fixture)
    running,
)

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.mark.parametrize(
    "asked", [{"messages": [{"role": "user", "content": "events flow"}]}, {"prompt": "events flow", "best_of": 4}]
)
async def test_a_killed_real_engine_changes_no_token(
    installation: Installation,  # noqa: F811
    checkpoint: Path,
    asked: dict[str, object],
) -> None:
    body = asked | {
        "max_tokens": 200,
        "seed": 5,
        "temperature": 0.8,
        "n": 2,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    options = {"engine": "real", "model": checkpoint, "device": "cpu", "dtype": "float32", "num_threads": 1}
    async with running(installation, **options) as worker:
        await installation.post(json.dumps(body).encode(), [("ce_id", b"undisturbed")])
        await installation.until(lambda: len(installation.results) == 1)
        await installation.post(json.dumps(body).encode(), [("ce_id", b"disturbed")])
        assert worker._path is not None
        runs = worker._path.emitter._running
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not any(len(choice.token_ids) >= 5 for run in runs.values() for choice in run.choices):
                await asyncio.sleep(0.005)
        worker._engine.kill()
        await installation.until(lambda: len(installation.results) == 2)
        assert worker._engine.num_restarts == 1
    first, second = (
        json.loads(installation.result_of(name)["value"])["choices"] for name in ("undisturbed", "disturbed")
    )
    assert first == second
    assert first[0]["token_ids"] != first[1]["token_ids"]
    assert len(first[0]["token_ids"]) == 200
