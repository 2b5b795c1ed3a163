"""A service kept running: restarts with backoff, refused settings, gentle and ungentle stops. Real child processes."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cli.embedded.service_process import ServiceProcess, ServiceState

DEADLINE_SECONDS = 15.0


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a program that `python -m` finds, and returns its module name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(program: str) -> str:
        (tmp_path / "a_service.py").write_text(program)
        return "a_service"

    return write


def service(module_name: str, tmp_path: Path, notes: list[str] | None = None) -> ServiceProcess:
    return ServiceProcess(
        name="a-service",
        module=module_name,
        environment={"TOLD": "yes"},
        log_file=tmp_path / "a-service.log",
        on_change=lambda changed, note: None if notes is None else notes.append(f"{changed.state}: {note}"),
    )


async def test_a_service_that_dies_is_started_again(module: Callable[[str], str], tmp_path: Path) -> None:
    running = service(module("import time\nwhile True: time.sleep(1)"), tmp_path)
    keeper = asyncio.create_task(running.keep_running())
    await eventually(lambda: running.pid is not None)
    first = running.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: running.pid is not None and running.pid != first)
    assert running.restarts == 1
    await running.stop(grace_seconds=5)
    await keeper
    assert running.state is ServiceState.STOPPED


async def test_each_crash_waits_longer_before_the_next_start(module: Callable[[str], str], tmp_path: Path) -> None:
    notes: list[str] = []
    running = service(module("raise SystemExit(7)"), tmp_path, notes)
    keeper = asyncio.create_task(running.keep_running())
    await eventually(lambda: running.restarts >= 2)
    await running.stop(grace_seconds=5)
    await keeper
    waits = [note for note in notes if "again in" in note]
    assert "status 7; again in 0.5 s" in waits[0]
    assert "status 7; again in 1.0 s" in waits[1]


async def test_a_service_that_refuses_its_settings_is_not_started_again(
    module: Callable[[str], str], tmp_path: Path
) -> None:
    notes: list[str] = []
    running = service(module("print('unknown setting PENSTOCK_X')\nraise SystemExit(2)"), tmp_path, notes)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await running.keep_running()
    assert running.state is ServiceState.REFUSED
    assert running.restarts == 0
    assert "unknown setting PENSTOCK_X" in notes[-1]


async def test_stop_lets_the_service_end_by_itself(module: Callable[[str], str], tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('drained'), sys.exit(0)))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    running = service(module(program), tmp_path)
    keeper = asyncio.create_task(running.keep_running())
    await eventually(lambda: "up" in running.last_log_lines(5))
    assert await running.stop(grace_seconds=10) == 0
    await keeper
    assert "drained" in running.last_log_lines(5)


async def test_stop_kills_a_service_that_does_not_listen(module: Callable[[str], str], tmp_path: Path) -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.01)\n"
    )
    running = service(module(program), tmp_path)
    keeper = asyncio.create_task(running.keep_running())
    await eventually(lambda: "up" in running.last_log_lines(5))
    assert await running.stop(grace_seconds=0.2) == -signal.SIGKILL
    await keeper


async def test_the_service_gets_its_environment(module: Callable[[str], str], tmp_path: Path) -> None:
    running = service(module("import os\nprint(os.environ['TOLD'], flush=True)\nraise SystemExit(2)"), tmp_path)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await running.keep_running()
    assert running.last_log_lines(1) == "yes"


async def test_stop_before_the_start_is_harmless(tmp_path: Path) -> None:
    assert await service("no_such_module", tmp_path).stop(grace_seconds=1) is None
