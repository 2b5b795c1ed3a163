"""How many requests one gateway waits for at a time, and when a refused caller should come back.

Pure arithmetic and a clock. The place is taken in the same step as the check, so that a burst cannot slip in
between them. `Retry-After` is measured: the time in which, at the recent rate, a place becomes free.
"""

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from shared.contracts.errors import QueueFull

_WINDOW_SECONDS = 10.0
_LEAST_RETRY_SECONDS = 0.1
_MOST_RETRY_SECONDS = 30.0
_UNKNOWN_RETRY_SECONDS = 2.0


class Place:
    """One admitted request. Given back once, however often it is closed."""

    __slots__ = ("_admission", "_is_held")

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._is_held = True

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._admission._left()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.give_back()


class Admission:
    """A bound on outstanding requests."""

    def __init__(self, *, max_outstanding_requests: int, monotonic: Callable[[], float]) -> None:
        self._limit = max_outstanding_requests
        self._monotonic = monotonic
        self._outstanding = 0
        self._departures: deque[float] = deque(maxlen=4_096)

    @property
    def outstanding_requests(self) -> int:
        return self._outstanding

    def enter(self) -> Place:
        """Take a place. Raises `QueueFull` with a true `retry_after_seconds`."""
        if self._outstanding >= self._limit:
            raise QueueFull(
                f"this gateway already waits for {self._limit} requests",
                retry_after_seconds=self.retry_after_seconds(),
            )
        self._outstanding += 1
        return Place(self)

    def retry_after_seconds(self) -> float:
        """The mean time between departures of late; a guess while there were none."""
        horizon = self._monotonic() - _WINDOW_SECONDS
        while self._departures and self._departures[0] < horizon:
            self._departures.popleft()
        if not self._departures:
            return _UNKNOWN_RETRY_SECONDS
        observed_seconds = max(self._monotonic() - self._departures[0], 1.0)
        seconds_per_departure = observed_seconds / len(self._departures)
        return min(max(seconds_per_departure, _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)

    def _left(self) -> None:
        self._outstanding -= 1
        self._departures.append(self._monotonic())
