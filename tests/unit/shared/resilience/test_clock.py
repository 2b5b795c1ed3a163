import asyncio
import time

import pytest

from shared.resilience.clock import ManualClock, SystemClock


async def test_sleepers_wake_in_the_order_of_their_alarms_each_at_its_own_time() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("slow", 3.0))
        group.create_task(sleeper("quick", 1.0, 1.0, 1.5))
        await clock.advance(3.2)
        assert woken == [("quick", 1.0), ("quick", 2.0), ("slow", 3.0)]
        await clock.advance(0.3)
    assert woken[-1] == ("quick", 3.5)
    assert clock.monotonic() == 3.5


async def test_nobody_wakes_before_time() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(1.0))
    await clock.advance(0.999)
    assert not task.done()
    assert clock.num_sleepers == 1
    await clock.advance(0.001)
    assert task.done()
    assert clock.num_sleepers == 0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(1.0))
    await clock.advance(0)
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
    assert clock.num_sleepers == 0


async def test_moving_wakes_at_the_next_await_only() -> None:
    clock = ManualClock()
    task = asyncio.ensure_future(clock.sleep(1.0))
    await clock.advance(0)
    clock.move(1.0)
    assert not task.done()
    await asyncio.wait_for(task, 1.0)


async def test_sleeping_no_time_needs_no_alarm() -> None:
    clock = ManualClock()
    await asyncio.wait_for(clock.sleep(0), 1.0)
    await asyncio.wait_for(clock.sleep(-1), 1.0)


async def test_time_does_not_go_backwards() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="backwards"):
        clock.move(-1)
    with pytest.raises(ValueError, match="backwards"):
        await clock.advance(-0.1)


def test_both_readings_of_a_manual_clock_move_together() -> None:
    clock = ManualClock(now_ms=1_000)
    clock.move(1.5)
    assert (clock.now_ms(), clock.monotonic()) == (2_500, 1.5)


async def test_the_system_clock_reads_the_system() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1_000) < 1_000
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009
