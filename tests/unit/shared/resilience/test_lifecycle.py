import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.contracts.errors import LedgerUnavailable
from shared.resilience.backoff import Backoff
from shared.resilience.clock import ManualClock
from shared.resilience.lifecycle import run_periodically, run_persistently, stop_signal


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


class Rounds:
    """An action that notes when it ran and fails when told."""

    def __init__(self, clock: ManualClock, *, failing: set[int] = frozenset(), takes: float = 0.0) -> None:
        self.clock = clock
        self.failing = failing
        self.takes = takes
        self.ran_at: list[float] = []

    async def __call__(self) -> None:
        self.ran_at.append(self.clock.monotonic())
        await self.clock.sleep(self.takes)
        if len(self.ran_at) in self.failing:
            raise ConnectionError("gone")


async def _while_running(loop: Coroutine[Any, Any, None], body: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.ensure_future(loop)
    try:
        await body()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    async with stop_signal() as stopping:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopping.wait(), 5.0)


async def test_the_second_signal_has_its_default_effect_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    async with stop_signal() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stopping.wait(), 5.0)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) in (signal.default_int_handler, before)


async def test_signals_are_left_alone_afterwards() -> None:
    async with stop_signal(signal.SIGUSR2):
        pass
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


async def test_rounds_start_at_once_and_keep_their_interval() -> None:
    clock = ManualClock()
    rounds = Rounds(clock, takes=0.3)

    async def body() -> None:
        await clock.advance(3.5)

    await _while_running(run_periodically("test", 1.0, rounds, clock=clock), body)
    assert rounds.ran_at == pytest.approx([0, 1, 2, 3])


async def test_a_long_round_delays_the_next_and_none_overlap() -> None:
    clock = ManualClock()
    rounds = Rounds(clock, takes=2.5)

    async def body() -> None:
        await clock.advance(6)

    await _while_running(run_periodically("test", 1.0, rounds, clock=clock), body)
    assert rounds.ran_at == pytest.approx([0, 2.5, 5.0])


async def test_failing_rounds_are_survived_and_logged_ever_more_rarely() -> None:
    clock = ManualClock()
    rounds = Rounds(clock, failing=set(range(1, 9)))

    async def body() -> None:
        await clock.advance(9.5)

    with capture_logs() as logs:
        await _while_running(run_periodically("test", 1.0, rounds, clock=clock), body)
    assert len(rounds.ran_at) == 10
    warned = [line["failures"] for line in logs if line["log_level"] == "warning"]
    assert warned == [1, 2, 4, 8]
    healed = [line for line in logs if line["log_level"] == "info"]
    assert [line["failures"] for line in healed] == [8]
    assert "ConnectionError: gone" in logs[0]["error"]


@pytest.mark.parametrize(("error", "has_traceback"), [(LedgerUnavailable("away"), False), (ValueError("a bug"), True)])
async def test_only_what_may_be_a_bug_is_logged_with_its_traceback(error: Exception, has_traceback: bool) -> None:
    clock = ManualClock()

    async def fail() -> None:
        raise error

    async def body() -> None:
        await clock.advance(0.5)

    with capture_logs() as logs:
        await _while_running(run_periodically("test", 1.0, fail, clock=clock), body)
    assert (logs[0]["exc_info"] is not None) is has_traceback


async def test_a_cancelled_loop_ends() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(run_periodically("test", 1.0, Rounds(clock), clock=clock))
    await clock.advance(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_fails_is_started_again_after_growing_delays() -> None:
    clock = ManualClock()
    rounds = Rounds(clock, failing={1, 2, 3})
    backoff = Backoff(initial_seconds=1.0, generator=Highest())
    task = asyncio.ensure_future(run_persistently("test", rounds, clock=clock, backoff=backoff))
    await clock.advance(20)
    assert task.done(), "it ends when the action ends by itself"
    assert rounds.ran_at == pytest.approx([0, 1, 3, 7])


async def test_delays_start_over_after_a_healthy_stretch() -> None:
    clock = ManualClock()
    rounds = Rounds(clock, failing={1, 2, 3}, takes=30.0)
    backoff = Backoff(initial_seconds=1.0, generator=Highest())
    task = asyncio.ensure_future(run_persistently("test", rounds, clock=clock, backoff=backoff))
    await clock.advance(130)
    assert task.done()
    assert rounds.ran_at == pytest.approx([0, 31, 62, 93])
