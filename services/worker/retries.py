"""Whether and when a request that failed by an error of ours is tried again. Pure but for its random generator.

Exponential by the delay topics, with equal jitter: at least half of the topic's delay, at most all of it, so that a
topic's records come due in about the order they lie in. Never beyond the deadline, never more than `max_attempts`.
"""

import random
from dataclasses import dataclass

from shared.contracts.errors import PlatformError, TransientError
from shared.contracts.topics import RETRY_DELAYS_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again at `not_before_ms`, by way of the topic of `delay_seconds`; `failures` so far."""

    delay_seconds: int
    not_before_ms: int
    failures: int


def is_worth_another_try(error: PlatformError) -> bool:
    """By its class alone: ours, and another worker or another time may help."""
    return isinstance(error, TransientError)


class RetryPolicy:
    def __init__(self, *, max_attempts: int, generator: random.Random | None = None) -> None:
        self._max_attempts = max_attempts
        self._random = generator or random.Random()

    def plan(self, *, failures: int, deadline_ms: int | None, now_ms: int) -> Retry | None:
        """After so many failures, this one included. None: it was the last, or the deadline leaves no time."""
        if failures >= self._max_attempts:
            return None
        delay_seconds = RETRY_DELAYS_SECONDS[min(failures, len(RETRY_DELAYS_SECONDS)) - 1]
        not_before_ms = now_ms + round(1_000 * self._random.uniform(delay_seconds / 2, delay_seconds))
        if deadline_ms is not None and not_before_ms >= deadline_ms:
            return None
        return Retry(delay_seconds=delay_seconds, not_before_ms=not_before_ms, failures=failures)
