"""When a circuit breaker opens, is tried again, and closes: values and their limits. Behaviour is in
`circuit_breaker.py`."""

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """The defaults count failures in a row. With `window_seconds` the share of failures counts as well."""

    failures_to_open: int = 5
    """In a row, while closed."""
    open_seconds: float = 30.0
    successes_to_close: int = 3
    """In a row, while half-open; one failure opens it again."""
    half_open_probes: int = 3
    """Attempts under way at a time while half-open."""
    window_seconds: float | None = None
    """Look back so far for `failure_rate`; None: never."""
    failure_rate: float = 0.5
    """Share of the window's attempts at which it opens."""
    least_attempts: int = 20
    """A window with fewer says nothing."""
    slow_seconds: float | None = None
    """An attempt that took longer is a failure, whatever came back; None: however long."""

    def __post_init__(self) -> None:
        counts = (self.failures_to_open, self.successes_to_close, self.half_open_probes, self.least_attempts)
        times = (self.open_seconds, self.window_seconds, self.slow_seconds)
        if min(counts) < 1 or any(seconds is not None and seconds <= 0 for seconds in times):
            raise ValueError("every limit of a breaker must be positive")
        if not 0 < self.failure_rate <= 1:
            raise ValueError("failure_rate must be above 0 and at most 1")
