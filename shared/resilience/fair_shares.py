"""Who has had more than its share of late: weighted shares among those who ask. Pure but for its clock.

Usage fades with time, so that yesterday's flood is forgiven; whoever asked within `active_seconds`, served or not,
divides what there is. Refuses to know what is shared and what happens to who is over.

Source: weighted max-min fairness, A. Demers, S. Keshav, S. Shenker, "Analysis and Simulation of a Fair Queueing
Algorithm", 1989; here as a test at the door instead of an order of a queue.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shared.resilience.clock import Clock

_MOST_KEYS = 10_000


@dataclass(slots=True)
class _Usage:
    amount: float
    at: float
    asked_at: float


class FairShares:
    def __init__(
        self,
        *,
        clock: Clock,
        weights: Mapping[str, float] | None = None,
        fade_seconds: float = 5.0,
        active_seconds: float = 10.0,
    ) -> None:
        """Keys without a weight have weight 1."""
        if any(weight <= 0 for weight in (weights or {}).values()):
            raise ValueError("every weight must be positive")
        self._clock = clock
        self._weights = dict(weights or {})
        self._fade_seconds = fade_seconds
        self._active_seconds = active_seconds
        self._usage: dict[str, _Usage] = {}

    def asked(self, key: str) -> None:
        """`key` wants something now, whether or not it gets it."""
        now = self._clock.monotonic()
        usage = self._usage.get(key)
        if usage is not None:
            usage.asked_at = now
            return
        if len(self._usage) >= _MOST_KEYS:
            self._forget(now)
        self._usage[key] = _Usage(0.0, now, now)

    def got(self, key: str, amount: float) -> None:
        self.asked(key)
        usage, now = self._usage[key], self._clock.monotonic()
        usage.amount, usage.at = self._faded(usage, now) + amount, now

    def is_over(self, key: str) -> bool:
        """Whether `key` has had more than its share, judged among those who asked lately. Alone, nobody is over."""
        now = self._clock.monotonic()
        active = {
            name: usage
            for name, usage in self._usage.items()
            if name == key or now - usage.asked_at <= self._active_seconds
        }
        if key not in active or len(active) == 1:
            return False
        total = sum(self._faded(usage, now) for usage in active.values())
        weights = sum(self._weight(name) for name in active)
        return self._faded(active[key], now) > total * self._weight(key) / weights

    def _weight(self, key: str) -> float:
        return self._weights.get(key, 1.0)

    def _faded(self, usage: _Usage, now: float) -> float:
        return usage.amount * math.exp((usage.at - now) / self._fade_seconds)

    def _forget(self, now: float) -> None:
        """Those who have not asked for longest make room; a tenth at a time, so that it is rare."""
        by_age = sorted(self._usage.items(), key=lambda entry: entry[1].asked_at, reverse=True)
        self._usage = dict(by_age[: _MOST_KEYS * 9 // 10])
