"""How much may be under way at a time where nobody knows the capacity: additive increase, multiplicative decrease.

Grows by one for every `limit` good ends while it is used, shrinks by a factor at a bad one, at most once per
`settle_seconds`: what was admitted before a cut cannot have felt it. Pure but for its clock.

Source: D. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989.
"""

from shared.resilience.clock import Clock


class AdaptiveLimit:
    def __init__(
        self,
        *,
        clock: Clock,
        initial: float,
        least: float = 1.0,
        most: float = 4_096.0,
        decrease: float = 0.8,
        settle_seconds: float = 1.0,
    ) -> None:
        if not 1 <= least <= initial <= most:
            raise ValueError("need 1 <= least <= initial <= most")
        if not 0 < decrease < 1:
            raise ValueError("decrease must be between 0 and 1")
        self._clock = clock
        self._limit = initial
        self._least = least
        self._most = most
        self._decrease = decrease
        self._settle_seconds = settle_seconds
        self._cut_at = float("-inf")

    @property
    def limit(self) -> int:
        return int(self._limit)

    def ended(self, *, is_good: bool, under_way: int) -> None:
        """Something ended; `under_way` counts it. A limit that nobody reaches teaches nothing and does not grow."""
        if is_good:
            if 2 * under_way >= self._limit:
                self._limit = min(self._most, self._limit + 1 / self._limit)
        elif self._clock.monotonic() - self._cut_at >= self._settle_seconds:
            self._cut_at = self._clock.monotonic()
            self._limit = max(self._least, self._limit * self._decrease)
