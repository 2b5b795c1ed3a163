"""What a step costs by its number of rows, and a draft by its tokens: measured, then corrected by what steps take.

Without a measurement it begins with what is usual, and the first step that is seen says how fast the machine is.

Seconds and counts only. Where two sizes were measured, those between lie on the line between them.
"""

from bisect import bisect_left
from collections.abc import Mapping

_RATE = 0.1
"""Weight of one more observation."""
_MOST_SURPRISE = 2.0
"""Other processes' doings count at most as so many times what was expected."""


_USUAL = {1: 1.0, 4: 1.2, 16: 2.0, 64: 6.0}
"""Relative: as long as weights are what takes the time, rows are cheap."""


class StepCosts:
    def __init__(self, seconds_by_rows: Mapping[int, float]) -> None:
        """Beyond the largest size the last slope goes on. Empty: not measured."""
        self._is_measured = bool(seconds_by_rows)
        known = dict(seconds_by_rows) or _USUAL
        self._rows = sorted(known)
        self._seconds = [known[rows] for rows in self._rows]
        self._draft_seconds: dict[str, float] = {}

    def of_step(self, num_rows: int) -> float:
        if num_rows <= self._rows[0] or len(self._rows) == 1:
            return self._seconds[0]
        above = min(bisect_left(self._rows, num_rows), len(self._rows) - 1)
        low, high = self._rows[above - 1], self._rows[above]
        share = (num_rows - low) / (high - low)
        return self._seconds[above - 1] + share * (self._seconds[above] - self._seconds[above - 1])

    def of_draft_token(self, method: str) -> float:
        """0 for a method that has not been seen yet."""
        return self._draft_seconds.get(method, 0.0)

    def observe_step(self, num_rows: int, seconds: float) -> None:
        """Of a step without prefill: the sizes beside it move with it."""
        expected = self.of_step(num_rows)
        if not self._is_measured:
            self._is_measured = True
            self._seconds = [one * seconds / expected for one in self._seconds]
            return
        surprise = min(max(seconds / expected, 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        above = min(bisect_left(self._rows, num_rows), len(self._rows) - 1)
        below = above if self._rows[above] == num_rows else max(above - 1, 0)
        for index in {above, below}:
            self._seconds[index] *= 1 + _RATE * (surprise - 1)

    def observe_draft(self, method: str, num_tokens: int, seconds: float) -> None:
        each = seconds / num_tokens
        known = self._draft_seconds.get(method, each)
        self._draft_seconds[method] = known + _RATE * (min(each, _MOST_SURPRISE * known) - known)
