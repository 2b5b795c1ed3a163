"""The wall clock that all services share: Redis' own, carried on between two looks by the monotonic clock.

A deadline is an instant. Were each service to judge it by its own wall clock, one whose clock is an hour off would
let requests expire before they began, or never. Until Redis has answered once, the local clock has to do.
"""

from collections.abc import Awaitable, Callable

from shared.resilience.clock import Clock

_LONGEST_LOOK_SECONDS = 0.5


class LedgerClock:
    """A `Clock`; what it measures and sleeps by stays the local one. `look` is called again and again by its owner."""

    def __init__(self, local: Clock) -> None:
        self._local = local
        self._began_at: float | None = None
        self._began_at_ms = 0.0

    def now_ms(self) -> int:
        if self._began_at is None:
            return self._local.now_ms()
        return round(self._began_at_ms + (self._local.monotonic() - self._began_at) * 1_000)

    def monotonic(self) -> float:
        return self._local.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._local.sleep(seconds)

    async def look(self, ask_time_ms: Callable[[], Awaitable[int]]) -> None:
        """Set it by Redis' answer, in the middle of the exchange; a slow answer says too little to replace one.

        Raises what asking raises.
        """
        asked_at = self._local.monotonic()
        time_ms = await ask_time_ms()
        answered_at = self._local.monotonic()
        if self._began_at is None or answered_at - asked_at < _LONGEST_LOOK_SECONDS:
            self._began_at, self._began_at_ms = (asked_at + answered_at) / 2, float(time_ms)
