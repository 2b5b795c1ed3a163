"""When intake pauses and when it goes on: two marks, in tokens, and whether there is an engine at all. Pure.

The number of records in hand is bounded by the request source itself; what it cannot know is how heavy they are.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMarks:
    """Pause at `high`, go on at `low`."""

    high: int
    low: int

    @classmethod
    def below(cls, high: int) -> "TokenMarks":
        return cls(high=high, low=high * 3 // 4)


class Saturation:
    """Remembers which side of the marks it is on."""

    def __init__(self, marks: TokenMarks) -> None:
        self._marks = marks
        self._is_full = False

    def should_pause(self, *, num_open_tokens: int, is_engine_ready: bool) -> bool:
        if num_open_tokens >= self._marks.high:
            self._is_full = True
        elif num_open_tokens <= self._marks.low:
            self._is_full = False
        return self._is_full or not is_engine_ready
