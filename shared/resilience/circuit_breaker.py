"""A circuit breaker: who failed too often is left alone for a while, then tried carefully. Pure but for its clock.

    CLOSED --5 failures in a row, or half of a window's--> OPEN --30 s--> HALF_OPEN --3 successes--> CLOSED
                                                             ^---------one failure----------'

    attempt = breaker.attempt()          # None: refused
    with attempt: ...                    # what raises `failure` failed; any other error says nothing

Refuses to know what it protects: callers ask and report. An attempt belongs to the state in which it began: the
late answer of an older one changes nothing.

Source: M. Nygard, "Release It!", 2nd ed., chapter 5 (circuit breaker).
"""

from collections import deque
from types import TracebackType
from typing import Protocol, Self

from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.clock import Clock


class BreakerListener(Protocol):
    """Metrics and events. Called where the breaker is used; must not block or raise."""

    def changed(self, before: str, after: str) -> None: ...

    def rejected(self) -> None: ...


class Attempt:
    """One call that the breaker let through. The first report counts, later ones are ignored."""

    __slots__ = ("_began_at", "_breaker", "_failure", "_generation")

    def __init__(self, breaker: "CircuitBreaker", generation: int, began_at: float, failure: type[Exception]) -> None:
        self._breaker: CircuitBreaker | None = breaker
        self._failure = failure
        self._generation = generation
        self._began_at = began_at

    def succeeded(self) -> None:
        self._report(True)

    def failed(self) -> None:
        self._report(False)

    def abandoned(self) -> None:
        """It was cancelled, or failed for a reason that is not the other side's: it says nothing."""
        self._report(None)

    def _report(self, is_success: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._ended(self, self._generation, self._began_at, is_success)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.succeeded()
        elif issubclass(kind, self._failure):
            self.failed()
        else:
            self.abandoned()


class CircuitBreaker:
    """For one event loop or thread."""

    def __init__(self, rules: BreakerRules, *, clock: Clock, listener: BreakerListener | None = None) -> None:
        self._rules = rules
        self._clock = clock
        self._listener = listener
        self._state = BreakerState.CLOSED
        self._generation = 0
        self._changed_at = clock.monotonic()
        self._run = 0
        self._window: deque[tuple[float, bool]] = deque()
        self._window_failures = 0
        self._probes: dict[Attempt, float] = {}

    @property
    def state(self) -> BreakerState:
        now = self._clock.monotonic()
        if self._state is BreakerState.OPEN and now - self._changed_at >= self._rules.open_seconds:
            self._change(BreakerState.HALF_OPEN)
        return self._state

    @property
    def is_open(self) -> bool:
        return self.state is BreakerState.OPEN

    @property
    def retry_after_seconds(self) -> float:
        """Until the next attempt may be let through; 0: now."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return self._changed_at + self._rules.open_seconds - self._clock.monotonic()

    def attempt(self, *, failure: type[Exception] = Exception) -> Attempt | None:
        """Ask to call. None: refused, do not call. An attempt has to be reported, or used as a context."""
        state = self.state
        now = self._clock.monotonic()
        if state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and not self._has_room(now)):
            if self._listener is not None:
                self._listener.rejected()
            return None
        attempt = Attempt(self, self._generation, now, failure)
        if state is BreakerState.HALF_OPEN:
            self._probes[attempt] = now
        return attempt

    def record_success(self) -> None:
        """Something went well by itself, now: for what is watched instead of called."""
        self._count(is_success=True)

    def record_failure(self) -> None:
        self._count(is_success=False)

    def _has_room(self, now: float) -> bool:
        """A probe that never reports must not keep the breaker half-open for ever: its place is given on."""
        horizon = now - self._rules.open_seconds
        self._probes = {probe: began_at for probe, began_at in self._probes.items() if began_at > horizon}
        return len(self._probes) < self._rules.half_open_probes

    def _ended(self, attempt: Attempt, generation: int, began_at: float, is_success: bool | None) -> None:
        self._probes.pop(attempt, None)
        if is_success is None or generation != self._generation:
            return
        slow = self._rules.slow_seconds
        self._count(is_success=is_success and (slow is None or self._clock.monotonic() - began_at <= slow))

    def _count(self, *, is_success: bool) -> None:
        match self.state:
            case BreakerState.CLOSED:
                self._count_closed(is_success)
            case BreakerState.HALF_OPEN if not is_success:
                self._change(BreakerState.OPEN)
            case BreakerState.HALF_OPEN:
                self._run += 1
                if self._run >= self._rules.successes_to_close:
                    self._change(BreakerState.CLOSED)
            case BreakerState.OPEN:
                """A late answer to what was sent before: it proves nothing."""

    def _count_closed(self, is_success: bool) -> None:
        self._run = 0 if is_success else self._run + 1
        self._look_back(is_success)
        if self._run >= self._rules.failures_to_open or self._is_window_bad():
            self._change(BreakerState.OPEN)

    def _look_back(self, is_success: bool) -> None:
        if self._rules.window_seconds is None:
            return
        now = self._clock.monotonic()
        self._window.append((now, is_success))
        self._window_failures += not is_success
        while self._window[0][0] <= now - self._rules.window_seconds:
            self._window_failures -= not self._window.popleft()[1]

    def _is_window_bad(self) -> bool:
        attempts = len(self._window)
        return attempts >= self._rules.least_attempts and self._window_failures >= self._rules.failure_rate * attempts

    def _change(self, after: BreakerState) -> None:
        before, self._state = self._state, after
        self._generation += 1
        self._changed_at = self._clock.monotonic()
        self._run = self._window_failures = 0
        self._window.clear()
        self._probes.clear()
        if self._listener is not None:
            self._listener.changed(before, after)
