"""How many records may be in flight, and which topics may add to them. Pure: counts only.

Each topic closes at its own mark and opens again well below it, so that the intake does not flutter. A less urgent
topic gets a lower mark: bulk then never fills the room that interactive requests need.
"""

from collections.abc import Sequence


class IntakeRoom:
    def __init__(self, high_marks: Sequence[int], *, low_ratio: float = 0.75) -> None:
        """`high_marks` are in order of urgency. A topic reopens at `low_ratio` of its mark or below."""
        if not high_marks or min(high_marks) < 1:
            raise ValueError("every high mark must be at least 1")
        if not 0 <= low_ratio < 1:
            raise ValueError("low_ratio must be below 1")
        self._high_marks = tuple(high_marks)
        self._low_marks = tuple(int(mark * low_ratio) for mark in high_marks)
        self._is_closed = [False] * len(high_marks)

    def update(self, in_flight: int) -> None:
        for index, high_mark in enumerate(self._high_marks):
            if in_flight >= high_mark:
                self._is_closed[index] = True
            elif in_flight <= self._low_marks[index]:
                self._is_closed[index] = False

    def is_closed(self, index: int) -> bool:
        return self._is_closed[index]

    def room(self, index: int, in_flight: int) -> int:
        """How many records of this topic may be taken now."""
        return 0 if self._is_closed[index] else max(0, self._high_marks[index] - in_flight)

    @property
    def is_any_closed(self) -> bool:
        return any(self._is_closed)

    @property
    def is_all_closed(self) -> bool:
        return all(self._is_closed)
