"""An instant until which an answer is worth having. Pure: whoever asks brings the time.

Deadlines travel as Unix milliseconds, never as durations: a duration would start again at every hop.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """`at_ms` None means never."""

    at_ms: int | None = None

    @classmethod
    def after(cls, seconds: float, *, now_ms: int) -> "Deadline":
        return cls(at_ms=now_ms + round(seconds * 1_000))

    def has_passed(self, now_ms: int) -> bool:
        return self.at_ms is not None and now_ms >= self.at_ms

    def remaining_seconds(self, now_ms: int) -> float | None:
        """None means for ever; never negative."""
        return None if self.at_ms is None else max(0.0, (self.at_ms - now_ms) / 1_000)

    def earlier_of(self, other: "Deadline") -> "Deadline":
        instants = [deadline.at_ms for deadline in (self, other) if deadline.at_ms is not None]
        return Deadline(at_ms=min(instants, default=None))
