"""The breaker against a model that remembers everything that ever happened and reads its state off that."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.resilience.circuit_breaker import BreakerRules, BreakerState, CircuitBreaker
from shared.resilience.clock import ManualClock

RULES = BreakerRules(failures_to_open=3, open_seconds=10.0, successes_to_close=2)


def state_of(history: list[tuple[float, bool]], now: float) -> BreakerState:
    """Replays the whole history with nothing but the sentences of the breaker's docstring."""
    state, opened_at, run = BreakerState.CLOSED, 0.0, 0
    for at, is_success in [*history, (now, None)]:
        if state is BreakerState.OPEN and at - opened_at >= RULES.open_seconds:
            state, run = BreakerState.HALF_OPEN, 0
        if is_success is None or state is BreakerState.OPEN:
            continue
        if state is BreakerState.CLOSED:
            run = 0 if is_success else run + 1
            if run == RULES.failures_to_open:
                state, opened_at = BreakerState.OPEN, at
        elif is_success:
            run += 1
            if run == RULES.successes_to_close:
                state, run = BreakerState.CLOSED, 0
        else:
            state, opened_at = BreakerState.OPEN, at
    return state


class BreakerAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(RULES, clock=self.clock)
        self.history: list[tuple[float, bool]] = []

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 5.0, 9.5, 10.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def succeed(self) -> None:
        self.history.append((self.clock.monotonic(), True))
        self.breaker.record_success()

    @rule(times=st.integers(1, 3))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.history.append((self.clock.monotonic(), False))
            self.breaker.record_failure()

    @invariant()
    def both_agree(self) -> None:
        assert self.breaker.state is state_of(self.history, self.clock.monotonic())


BreakerAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBreaker = BreakerAgainstModel.TestCase
