"""What is struck already is left alone: faults of Kafka and Redis do not queue up behind one another."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.faults import Injection, Saboteur
from tests.chaos.schedule import Fault


@pytest.fixture
async def saboteur(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Saboteur]:
    """With a process to freeze that is nobody's Redis."""
    monkeypatch.setattr("tests.chaos.faults._FREEZE_REDIS_SECONDS", 0.05)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    victim: Any = SimpleNamespace(process_id=process.pid)
    yield Saboteur(victim, victim, victim, random.Random(1), redis_directory=tmp_path, count_in_flight=lambda: 3)
    process.kill()
    await process.wait()


async def test_a_fault_whose_victim_is_down_is_dropped_and_counted(saboteur: Saboteur) -> None:
    struck, *dropped = await asyncio.gather(
        saboteur.strike(Fault.FREEZE_REDIS), saboteur.strike(Fault.RESTART_REDIS), saboteur.strike(Fault.RESTART_BOTH)
    )
    assert isinstance(struck, Injection)
    assert (struck.victim, struck.num_in_flight, dropped) == ("redis", 3, [None, None])
    assert (saboteur.num_dropped, saboteur.injections) == (2, [struck])


async def test_afterwards_it_can_be_struck_again(saboteur: Saboteur) -> None:
    assert all([await saboteur.strike(Fault.FREEZE_REDIS) for _ in range(2)])
    assert saboteur.num_dropped == 0
