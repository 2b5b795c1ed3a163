"""When refused callers should come back, such that not all come back at once. Pure but for its clock.

Each refused caller is told the time at which its turn comes, after those refused before it: the n-th of a burst waits
for n places. Told times are capped; who is told the cap finds the others gone or is told again.
"""

from collections import deque

from shared.resilience.clock import Clock

_WINDOW_SECONDS = 10.0
_LEAST_SECONDS = 0.1
MOST_SECONDS = 30.0
_UNKNOWN_SECONDS = 2.0


class RetryTimes:
    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._departures: deque[float] = deque(maxlen=4_096)
        self._last_turn_at = float("-inf")

    def departed(self) -> None:
        """A place became free."""
        self._departures.append(self._clock.monotonic())

    def until_a_departure(self) -> float:
        """For who found no place: the mean time between departures of late, one after the other."""
        now = self._clock.monotonic()
        while self._departures and self._departures[0] < now - _WINDOW_SECONDS:
            self._departures.popleft()
        if not self._departures:
            return _UNKNOWN_SECONDS
        observed_seconds = max(now - self._departures[0], 1.0)
        return self.after(0.0, observed_seconds / len(self._departures))

    def after(self, seconds: float, turn_seconds: float) -> float:
        """In `seconds` at the earliest, and `turn_seconds` after whoever was told before."""
        now = self._clock.monotonic()
        turn_at = max(now + max(seconds, turn_seconds), self._last_turn_at + turn_seconds)
        turn_at = min(turn_at, now + MOST_SECONDS)
        self._last_turn_at = turn_at
        return min(max(turn_at - now, _LEAST_SECONDS), MOST_SECONDS)
