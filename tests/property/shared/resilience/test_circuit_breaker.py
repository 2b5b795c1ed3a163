"""The breaker against a model that remembers everything that ever happened and reads its state off that."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.resilience.breaker_rules import BreakerRules, BreakerState
from shared.resilience.circuit_breaker import Attempt, CircuitBreaker
from shared.resilience.clock import ManualClock

RULES = BreakerRules(
    failures_to_open=3,
    open_seconds=10.0,
    successes_to_close=2,
    half_open_probes=2,
    window_seconds=8.0,
    failure_rate=0.5,
    least_attempts=4,
    slow_seconds=4.0,
)


@dataclass(frozen=True)
class Event:
    """`begun_at` None: an observation without an attempt; `good` None: an attempt that said nothing."""

    at: float
    good: bool | None
    begun_at: float | None = None
    begun_in: int = 0


@dataclass
class Replay:
    """The state, and how many changes led to it, after the whole history: nothing but the breaker's sentences."""

    state: BreakerState = BreakerState.CLOSED
    changes: int = 0

    def of(self, history: list[Event], now: float) -> "Replay":
        since, counted = 0.0, list[tuple[float, bool]]()
        for event in [*history, Event(now, None)]:
            if self.state is BreakerState.OPEN and event.at - since >= RULES.open_seconds:
                self.state, self.changes, counted = BreakerState.HALF_OPEN, self.changes + 1, []
            if event.good is None or self.state is BreakerState.OPEN:
                continue
            if event.begun_at is not None and event.begun_in != self.changes:
                continue
            is_slow = event.begun_at is not None and event.at - event.begun_at > 4.0
            counted.append((event.at, event.good and not is_slow))
            after = self._after(counted, event.at)
            if after is not self.state:
                self.state, self.changes, since, counted = after, self.changes + 1, event.at, []
        return self

    def _after(self, counted: list[tuple[float, bool]], now: float) -> BreakerState:
        answers = [good for _, good in counted]
        if self.state is BreakerState.HALF_OPEN:
            if not answers[-1]:
                return BreakerState.OPEN
            return BreakerState.CLOSED if len(answers) == RULES.successes_to_close else self.state
        window = [good for at, good in counted if at > now - 8.0]
        is_run = len(answers) >= 3 and not any(answers[-3:])
        is_bad = len(window) >= 4 and window.count(False) * 2 >= len(window)
        return BreakerState.OPEN if is_run or is_bad else self.state


class BreakerAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(RULES, clock=self.clock)
        self.history: list[Event] = []
        self.under_way: list[tuple[Attempt, float, int]] = []

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def replay(self) -> Replay:
        return Replay().of(self.history, self.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 5.0, 9.5, 10.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def succeed(self) -> None:
        self.history.append(Event(self.now, True))
        self.breaker.record_success()

    @rule(times=st.integers(1, 3))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.history.append(Event(self.now, False))
            self.breaker.record_failure()

    @rule()
    def begin(self) -> None:
        expected = self.replay()
        probes = [
            began_at
            for _, began_at, change in self.under_way
            if change == expected.changes and began_at > self.now - RULES.open_seconds
        ]
        is_let_through = expected.state is BreakerState.CLOSED or (
            expected.state is BreakerState.HALF_OPEN and len(probes) < RULES.half_open_probes
        )
        attempt = self.breaker.attempt()
        assert (attempt is not None) == is_let_through
        if attempt is not None:
            self.under_way.append((attempt, self.now, expected.changes))

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 50), good=st.sampled_from([True, False, None]))
    def end(self, which: int, good: bool | None) -> None:
        attempt, began_at, change = self.under_way.pop(which % len(self.under_way))
        self.history.append(Event(self.now, good, began_at, change))
        match good:
            case True:
                attempt.succeeded()
            case False:
                attempt.failed()
            case None:
                attempt.abandoned()

    @invariant()
    def both_agree(self) -> None:
        assert self.breaker.state is self.replay().state


BreakerAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreaker = BreakerAgainstModel.TestCase
