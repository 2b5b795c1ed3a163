"""How long to wait before trying again: exponential with full jitter. Pure but for its random generator.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

import random


class Backoff:
    """One sequence of delays. `reset` after a success."""

    def __init__(
        self,
        *,
        initial_seconds: float = 0.1,
        maximum_seconds: float = 30.0,
        factor: float = 2.0,
        generator: random.Random | None = None,
    ) -> None:
        if not 0 < initial_seconds <= maximum_seconds:
            raise ValueError("need 0 < initial_seconds <= maximum_seconds")
        if factor < 1:
            raise ValueError("factor must be at least 1")
        self._initial_seconds = initial_seconds
        self._maximum_seconds = maximum_seconds
        self._factor = factor
        self._random = generator or random.Random()
        self._ceiling = initial_seconds

    @property
    def ceiling_seconds(self) -> float:
        """The next delay is at most this."""
        return self._ceiling

    def next_seconds(self) -> float:
        delay = self._random.uniform(0.0, self._ceiling)
        self._ceiling = min(self._maximum_seconds, self._ceiling * self._factor)
        return delay

    def reset(self) -> None:
        self._ceiling = self._initial_seconds
