"""Time as a port: what waits or judges by time gets a `Clock`, so that tests need no sleeping.

Refuses to know what anybody waits for.
"""

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Called from the event loop's thread; only `sleep` suspends."""

    def now_ms(self) -> int:
        """The wall clock, Unix milliseconds: for what other machines read."""
        ...

    def monotonic(self) -> float:
        """Seconds since some instant, never backwards: for what this process measures."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """Stands still until told. `await advance(...)` lets sleepers run in the order of their alarms."""

    _YIELDS = 20
    """How often `advance` yields, so that what it woke can reach its next await before time goes on."""

    def __init__(self, *, now_ms: int = 1_700_000_000_000) -> None:
        self._started_ms = now_ms
        self._elapsed = 0.0
        self._order = itertools.count()
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._started_ms + round(self._elapsed * 1_000)

    def monotonic(self) -> float:
        return self._elapsed

    @property
    def num_sleepers(self) -> int:
        return sum(not future.done() for _, _, future in self._alarms)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._alarms, (self._elapsed + seconds, next(self._order), future))
        await future

    def move(self, seconds: float) -> None:
        """Go on without letting anybody run; who is due runs at the caller's next await."""
        if seconds < 0:
            raise ValueError("time does not go backwards")
        self._elapsed += seconds
        while self._alarms and self._alarms[0][0] <= self._elapsed:
            self._ring()

    async def advance(self, seconds: float) -> None:
        """Go on from alarm to alarm, letting each sleeper run at the time it asked for."""
        if seconds < 0:
            raise ValueError("time does not go backwards")
        target = self._elapsed + seconds
        await self._let_run()
        while self._alarms and self._alarms[0][0] <= target:
            self._elapsed = max(self._elapsed, self._alarms[0][0])
            self._ring()
            await self._let_run()
        self._elapsed = target
        await self._let_run()

    def _ring(self) -> None:
        _, _, future = heapq.heappop(self._alarms)
        if not future.done():
            future.set_result(None)

    async def _let_run(self) -> None:
        for _ in range(self._YIELDS):
            await asyncio.sleep(0)
