"""`penstock rollout` while streams and records run: each is answered by one set of weights, from its first token on."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.commands.rollout import rollouts_of
from services.cli.commands.up import stack_state
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from services.cli.embedded.stack_control import StackControl
from tests.builders import tiny_checkpoint
from tests.fixtures.stack import READY_SECONDS, TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

PROMPTS = ("water", "river", "lake")
TOKENS = 500
RECORDS = 40


@asynccontextmanager
async def running_stack(directory: Path, model: Path) -> AsyncIterator[EmbeddedStack]:
    """As `penstock up` runs it: it takes orders at a socket that its state names."""
    pool = PoolPlan(workers=2, model=model, served_model_name=TINY, dtype="float32")
    environment = {"PENSTOCK_WORKER_NUM_THREADS": "1"}
    plan = StackPlan(data_dir=directory, pools=(pool,), request_partitions=6, environment=environment)
    async with EmbeddedStack(plan) as stack:
        await stack.wait_until_ready(timeout_seconds=READY_SECONDS)
        async with StackControl(rollouts_of(stack, report=print)) as control:
            stack_state(stack, control=control.path).write(directory)
            yield stack


async def roll_out(directory: Path, model: Path, *options: str) -> tuple[int, str]:
    """The command as a process of its own, as an operator would type it."""
    command = ("rollout", str(model), "--data-dir", str(directory), *options)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "services.cli", *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def fingerprints(stack: EmbeddedStack) -> list[str]:
    async with httpx.AsyncClient(base_url=stack.supervisor_url) as client:
        workers = (await client.get("/fleet")).json()["workers"]
    return [worker["fingerprint"] for worker in workers if worker["state"] == "ready"]


@dataclass
class Load:
    """Callers who ask again as soon as they are answered. `answers`: prompt and text, in order of their beginning."""

    stack: EmbeddedStack
    answers: list[tuple[str, str]] = field(default_factory=list)
    is_over: bool = False

    async def text(self, client: httpx.AsyncClient, prompt: str) -> str:
        body = {"model": TINY, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        pieces: list[str] = []
        async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    event: dict[str, Any] = json.loads(line[6:])
                    assert "error" not in event, event
                    pieces += [choice["text"] for choice in event["choices"]]
        return "".join(pieces)

    async def keep_asking(self) -> None:
        async with httpx.AsyncClient(base_url=self.stack.http_url, timeout=120) as client:
            for prompt in itertools.cycle(PROMPTS):
                if self.is_over:
                    return
                place = len(self.answers)
                self.answers.append((prompt, ""))
                self.answers[place] = (prompt, await self.text(client, prompt))

    async def expected(self) -> dict[str, str]:
        async with httpx.AsyncClient(base_url=self.stack.http_url, timeout=120) as client:
            return {prompt: await self.text(client, prompt) for prompt in PROMPTS}


async def test_a_rollout_loses_nothing_and_no_stream_changes_weights_on_the_way(tmp_path: Path) -> None:
    data, sizes = tmp_path / "data", {"hidden_size": 128, "num_layers": 4, "max_position_embeddings": 2048}
    old, new = (tiny_checkpoint(tmp_path / f"{seed}" / TINY, seed=seed, **sizes) for seed in (0, 1))
    async with running_stack(data, old) as stack:
        topics = Topics(stack.addresses.kafka)
        reader = await asyncio.to_thread(topics.reader)
        load = Load(stack)
        before = await load.expected()
        async with asyncio.TaskGroup() as callers:
            for _ in range(4):
                callers.create_task(load.keep_asking())
            bodies = [{"prompt": PROMPTS[n % 3], "max_tokens": TOKENS, "temperature": 0} for n in range(RECORDS)]
            receipts = await asyncio.to_thread(topics.post, *[{**body, "ignore_eos": True} for body in bodies])
            status, said = await roll_out(data, new)
            load.is_over = True
        after = await load.expected()
        answers = await asyncio.to_thread(topics.answers, reader, receipts, timeout_seconds=60.0)
        reader.close()

        assert status == 0, said
        assert "2 workers replaced" in said
        assert all(before[prompt] != after[prompt] for prompt in PROMPTS)
        kinds = ["old" if text == before[p] else "new" if text == after[p] else "mixed" for p, text in load.answers]
        assert set(kinds) == {"old", "new"}, kinds
        assert set(answers) == set(receipts)
        assert {len(results) for results in answers.values()} == {1}
        texts = {json.loads(results[0].value)["choices"][0]["text"] for results in answers.values()}
        assert texts <= {*before.values(), *after.values()}
        assert len(set(await fingerprints(stack))) == 1


async def test_weights_that_do_not_load_change_nothing_and_other_numerics_are_a_rollout_too(tmp_path: Path) -> None:
    data, model = tmp_path / "data", tiny_checkpoint(tmp_path / "model" / TINY)
    broken = tiny_checkpoint(tmp_path / "broken" / TINY)
    (weights,) = broken.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4096])
    async with running_stack(data, model) as stack:
        before, names = await fingerprints(stack), [worker.name for worker in stack.workers]
        status, said = await roll_out(data, broken)
        assert status == 1
        assert "does not start" in said
        assert "0 of 2 workers were replaced" in said
        assert [worker.name for worker in stack.workers] == names
        assert await fingerprints(stack) == before

        status, said = await roll_out(data, model, "--quantization", "rtn-int8")
        assert status == 0, said
        assert [name.endswith("rtn-int8") for name in await fingerprints(stack)] == [True, True]
        assert (await roll_out(data, model, "--quantization", "rtn-int8"))[1].strip().endswith("already")
