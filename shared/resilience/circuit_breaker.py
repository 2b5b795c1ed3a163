"""A circuit breaker: who failed too often is left alone for a while, then tried carefully. Pure but for its clock.

    CLOSED --5 failures in a row--> OPEN --30 s--> HALF_OPEN --3 successes--> CLOSED
                                      ^---------one failure----------'

Refuses to know what it protects: callers report and ask.
"""

from dataclasses import dataclass
from enum import StrEnum

from shared.resilience.clock import Clock


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    failures_to_open: int = 5
    open_seconds: float = 30.0
    successes_to_close: int = 3

    def __post_init__(self) -> None:
        if self.failures_to_open < 1 or self.successes_to_close < 1 or self.open_seconds <= 0:
            raise ValueError("every limit of a breaker must be positive")


class CircuitBreaker:
    def __init__(self, rules: BreakerRules, *, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._failures = 0
        self._successes = 0
        self._opened_at: float | None = None

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        waited = self._clock.monotonic() - self._opened_at
        return BreakerState.HALF_OPEN if waited >= self._rules.open_seconds else BreakerState.OPEN

    @property
    def is_open(self) -> bool:
        return self.state is BreakerState.OPEN

    def record_success(self) -> None:
        """Successes while open are late answers to what was sent before: they prove nothing."""
        match self.state:
            case BreakerState.CLOSED:
                self._failures = 0
            case BreakerState.HALF_OPEN:
                self._successes += 1
                if self._successes >= self._rules.successes_to_close:
                    self._opened_at = None
                    self._failures = self._successes = 0
            case BreakerState.OPEN:
                pass

    def record_failure(self) -> None:
        match self.state:
            case BreakerState.CLOSED:
                self._failures += 1
                if self._failures >= self._rules.failures_to_open:
                    self._open()
            case BreakerState.HALF_OPEN:
                self._open()
            case BreakerState.OPEN:
                pass

    def _open(self) -> None:
        self._opened_at = self._clock.monotonic()
        self._successes = 0
