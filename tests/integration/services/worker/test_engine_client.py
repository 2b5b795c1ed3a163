"""The engine process for real: started, killed, hanging, orphaned. With the null engine: the same messages."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.worker.engine.config import EngineConfig
from services.worker.engine.events import ChoiceStart, EngineReady, StepResult, Submit
from services.worker.engine_client import EngineClient, EngineHopeless, RestartPolicy, WatchdogLimits
from services.worker.engine_process import EngineProcessConfig
from services.worker.null_engine import NullEngineConfig
from shared.contracts.errors import EngineFailed
from shared.contracts.sampling import SamplingParameters

VOCABULARY = tuple(range(97, 123))


class Recorder:
    """Keeps what the engine said; every change wakes whoever waits."""

    def __init__(self) -> None:
        self.ready: list[EngineReady] = []
        self.lost: list[str] = []
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, str] = {}
        self._changed = asyncio.Event()

    def engine_ready(self, ready: EngineReady) -> None:
        self.ready.append(ready)
        self._changed.set()

    def step_finished(self, result: StepResult) -> None:
        for event in result.tokens:
            self.tokens.setdefault(event.request_id, []).extend(event.token_ids)
            if event.finish_reason is not None:
                self.finished[event.request_id] = event.finish_reason
        self._changed.set()

    def engine_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def null_config(**options: float) -> EngineProcessConfig:
    return EngineProcessConfig(null=NullEngineConfig(vocabulary=VOCABULARY, **options))


def submit(request_id: str, *, max_tokens: int, output: list[int] | None = None) -> Submit:
    start = ChoiceStart(index=0, prompt_token_ids=[1, 2, 3], output_token_ids=output or [], seed=7)
    return Submit(
        request_id=request_id,
        choices=[start],
        sampling=SamplingParameters(max_tokens=max_tokens),
        eos_token_ids=[0],
    )


@contextlib.asynccontextmanager
async def running(
    config: EngineProcessConfig,
    *,
    restarts: RestartPolicy | None = None,
    watchdog: WatchdogLimits | None = None,
) -> AsyncIterator[tuple[EngineClient, Recorder, "asyncio.Task[None]"]]:
    recorder = Recorder()
    client = EngineClient(config, restarts=restarts, watchdog=watchdog)
    task = asyncio.create_task(client.run(recorder))
    try:
        await recorder.until(lambda: bool(recorder.ready) or task.done())
        yield client, recorder, task
    finally:
        await client.close()
        with contextlib.suppress(EngineFailed, asyncio.CancelledError):
            await task


async def test_the_engine_says_what_it_is_and_answers_a_request() -> None:
    async with running(null_config()) as (client, recorder, _):
        assert recorder.ready[0].fingerprint == "null"
        assert recorder.ready[0].process_id == client.process_id
        client.submit(submit("a", max_tokens=5))
        await recorder.until(lambda: "a" in recorder.finished)
        assert recorder.finished["a"] == "length"
        assert len(recorder.tokens["a"]) == 5
        assert set(recorder.tokens["a"]) <= set(VOCABULARY)


async def test_the_engine_process_runs_at_a_lower_priority_than_the_shell() -> None:
    async with running(null_config()) as (client, _, _):
        assert client.process_id is not None
        assert os.getpriority(os.PRIO_PROCESS, client.process_id) > os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_killed_engine_is_reported_once_and_started_again() -> None:
    quick = RestartPolicy(first_delay_seconds=0.01)
    async with running(null_config(), restarts=quick) as (client, recorder, _):
        first = client.process_id
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await recorder.until(lambda: len(recorder.ready) == 2)
        assert len(recorder.lost) == 1
        assert client.process_id != first
        client.submit(submit("after", max_tokens=2))
        await recorder.until(lambda: "after" in recorder.finished)


async def test_tokens_are_the_same_when_the_engine_is_killed_in_the_middle_and_continued() -> None:
    quick = RestartPolicy(first_delay_seconds=0.01)
    async with running(null_config(step_ms=5.0), restarts=quick) as (client, recorder, _):
        client.submit(submit("whole", max_tokens=40))
        await recorder.until(lambda: "whole" in recorder.finished)
        client.submit(submit("cut", max_tokens=40))
        await recorder.until(lambda: len(recorder.tokens.get("cut", [])) >= 10)
        client.kill()
        await recorder.until(lambda: len(recorder.ready) == 2)
        assert "cut" not in recorder.finished
        client.submit(submit("cut", max_tokens=40, output=recorder.tokens["cut"].copy()))
        await recorder.until(lambda: "cut" in recorder.finished)
        assert recorder.tokens["cut"] == recorder.tokens["whole"]


async def test_an_engine_that_dies_too_often_is_given_up() -> None:
    policy = RestartPolicy(first_delay_seconds=0.01, max_restarts=1)
    async with running(null_config(), restarts=policy) as (client, recorder, task):
        client.kill()
        await recorder.until(lambda: len(recorder.ready) == 2)
        client.kill()
        with pytest.raises(EngineFailed, match="died 2 times"):
            await asyncio.wait_for(asyncio.shield(task), 30)
        assert not client.is_ready
        with pytest.raises(EngineFailed):
            client.submit(submit("late", max_tokens=1))


async def test_a_hanging_step_is_killed_by_the_watchdog() -> None:
    limits = WatchdogLimits(step_seconds=0.3)
    policy = RestartPolicy(first_delay_seconds=0.01)
    async with running(null_config(step_ms=60_000.0), restarts=policy, watchdog=limits) as (client, recorder, _):
        client.submit(submit("hangs", max_tokens=1))
        await recorder.until(lambda: bool(recorder.lost))
        assert "no step for" in recorder.lost[0]


async def test_an_idle_engine_is_not_taken_for_a_hanging_one() -> None:
    limits = WatchdogLimits(step_seconds=0.2)
    async with running(null_config(), watchdog=limits) as (client, recorder, _):
        client.submit(submit("one", max_tokens=1))
        await recorder.until(lambda: "one" in recorder.finished)
        client.retire("one")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(recorder.until(lambda: bool(recorder.lost)), 0.8)
        assert not recorder.lost


async def test_a_cancelled_request_yields_no_more_tokens() -> None:
    async with running(null_config(step_ms=2.0)) as (client, recorder, _):
        client.submit(submit("gone", max_tokens=100_000))
        await recorder.until(lambda: len(recorder.tokens.get("gone", [])) > 3)
        client.cancel("gone")
        client.submit(submit("next", max_tokens=5))
        await recorder.until(lambda: "next" in recorder.finished)
        seen = len(recorder.tokens["gone"])
        client.submit(submit("another", max_tokens=5))
        await recorder.until(lambda: "another" in recorder.finished)
        assert len(recorder.tokens["gone"]) == seen


async def test_an_engine_that_cannot_load_says_why() -> None:
    broken = EngineProcessConfig(null=None, real=None)
    recorder = Recorder()
    client = EngineClient(broken, restarts=RestartPolicy(first_delay_seconds=0.01, max_restarts=0))
    with pytest.raises(EngineFailed, match="neither a real nor a null engine"):
        await asyncio.wait_for(client.run(recorder), 60)
    assert "neither a real nor a null engine" in recorder.lost[0]
    await client.close()


async def test_an_engine_that_refuses_its_checkpoint_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    recorder = Recorder()
    client = EngineClient(EngineProcessConfig(real=EngineConfig(model=tmp_path)))
    with pytest.raises(EngineHopeless, match=r"config\.json: architectures: NoSuchModel is not supported"):
        await asyncio.wait_for(client.run(recorder), 60)
    assert client.num_restarts == 0
    assert recorder.lost == []
    await client.close()


_SHELL = """
import asyncio, os, sys
from services.worker.engine_client import EngineClient
from services.worker.engine_process import EngineProcessConfig
from services.worker.null_engine import NullEngineConfig

class Listener:
    def engine_ready(self, ready): print(ready.process_id, flush=True)
    def step_finished(self, result): pass
    def engine_lost(self, reason): pass

config = EngineProcessConfig(null=NullEngineConfig(vocabulary=(1, 2)))
asyncio.run(EngineClient(config).run(Listener()))
"""


def _is_alive(process_id: int) -> bool:
    try:
        with open(f"/proc/{process_id}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_the_engine_ends_by_itself_when_its_shell_is_killed() -> None:
    shell = subprocess.Popen([sys.executable, "-c", _SHELL], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert shell.stdout is not None
    engine = int(await asyncio.to_thread(shell.stdout.readline))
    assert _is_alive(engine)
    shell.kill()
    shell.wait()
    async with asyncio.timeout(10):
        while _is_alive(engine):
            await asyncio.sleep(0.01)
    shell.stdout.close()
