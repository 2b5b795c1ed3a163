"""Deadlines are judged by one clock, whatever the clock of the machine says."""

import pytest

from shared.contracts.errors import LedgerUnavailable
from shared.ledger.ledger_clock import LedgerClock
from shared.resilience.clock import ManualClock

HOUR_MS = 3_600_000


class Redis:
    """Answers with its own time after `seconds`."""

    def __init__(self, local: ManualClock, *, ahead_ms: int, seconds: float = 0.0) -> None:
        self.local, self.ahead_ms, self.seconds = local, ahead_ms, seconds

    async def time_ms(self) -> int:
        self.local.move(self.seconds / 2)
        answer = self.local.now_ms() + self.ahead_ms
        self.local.move(self.seconds / 2)
        return answer


async def test_before_redis_has_answered_the_local_clock_has_to_do() -> None:
    local = ManualClock()
    clock = LedgerClock(local)
    assert clock.now_ms() == local.now_ms()
    with pytest.raises(LedgerUnavailable):
        await clock.look(_away)
    assert clock.now_ms() == local.now_ms()


async def _away() -> int:
    raise LedgerUnavailable("away")


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS, 0])
async def test_after_a_look_it_shows_the_time_of_redis_and_goes_on_by_itself(ahead_ms: int) -> None:
    local = ManualClock()
    clock = LedgerClock(local)
    await clock.look(Redis(local, ahead_ms=ahead_ms).time_ms)
    local.move(12.5)
    assert clock.now_ms() == local.now_ms() + ahead_ms


async def test_the_way_there_and_back_is_counted_by_half() -> None:
    local = ManualClock()
    clock = LedgerClock(local)
    await clock.look(Redis(local, ahead_ms=HOUR_MS, seconds=0.4).time_ms)
    assert clock.now_ms() == local.now_ms() + HOUR_MS


async def test_a_slow_answer_does_not_replace_a_quick_one() -> None:
    local = ManualClock()
    clock = LedgerClock(local)
    await clock.look(Redis(local, ahead_ms=0).time_ms)
    await clock.look(Redis(local, ahead_ms=77, seconds=2.0).time_ms)
    assert clock.now_ms() == local.now_ms()


async def test_waiting_and_measuring_stay_local() -> None:
    local = ManualClock()
    clock = LedgerClock(local)
    await clock.look(Redis(local, ahead_ms=HOUR_MS).time_ms)
    before = clock.monotonic()
    local.move(1.0)
    assert clock.monotonic() == before + 1.0
    await clock.sleep(0.0)
