"""How many workers a pool should have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.autoscaling import (
    Bounds,
    InvalidBounds,
    PoolLoad,
    ScalingRules,
    ScalingState,
    next_state,
    parse_bounds,
)

BOUNDS = Bounds(least=1, most=4)
RULES = ScalingRules()
IDLE = PoolLoad(workers=1)


class Pool:
    """One pool whose workers come as soon as they are wanted; decided every second."""

    def __init__(self, workers: int = 1, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self.now = 0.0
        self.state: ScalingState | None = None
        self.run(1, PoolLoad(workers=workers))

    @property
    def desired(self) -> int:
        assert self.state is not None
        return self.state.desired

    def run(self, seconds: int, load: PoolLoad) -> list[int]:
        """What was wanted after each second."""
        wanted = []
        for _ in range(seconds):
            self.now += 1
            told = load if self.state is None else replace(load, workers=self.desired)
            self.state = next_state(self.state, told, bounds=self.bounds, rules=RULES, now=self.now)
            wanted.append(self.state.desired)
        return wanted


def backlog(tokens: float, *, capacity: float = 100.0, cold: float = 0.0) -> PoolLoad:
    return PoolLoad(workers=1, backlog_tokens=tokens, capacity=capacity, utilisation=1.0, cold_start_seconds=cold)


def busy(utilisation: float) -> PoolLoad:
    return PoolLoad(workers=1, utilisation=utilisation)


def test_it_starts_with_what_is_there_within_the_bounds() -> None:
    assert Pool(workers=2).desired == 2
    assert Pool(workers=0).desired == 1
    assert Pool(workers=9).desired == 4


def test_a_backlog_that_takes_too_long_wants_workers_at_once_but_in_steps() -> None:
    pool = Pool()
    pool.run(15, IDLE)
    assert pool.run(20, backlog(10_000))[:3] == [3, 3, 3]
    assert pool.desired == 4


def test_between_two_changes_there_is_a_pause() -> None:
    pool = Pool()
    pool.run(15, IDLE)
    wanted = pool.run(40, backlog(10_000))
    assert wanted.index(4) - wanted.index(3) == 15


def test_a_backlog_that_is_gone_before_a_worker_could_start_wants_nobody() -> None:
    pool = Pool()
    pool.run(15, IDLE)
    load = replace(backlog(2_000, cold=30.0), utilisation=0.5)
    assert set(pool.run(60, load)) == {1}, "20 s of work, 30 s to start"
    assert max(pool.run(60, replace(load, cold_start_seconds=5.0))) == 2


def test_full_batches_want_workers_until_they_are_full_enough() -> None:
    pool = Pool()
    pool.run(15, IDLE)
    assert pool.run(1, busy(1.0)) == [2]
    assert set(pool.run(30, busy(0.7))) == {2}


def test_a_burning_budget_wants_one_more() -> None:
    pool = Pool()
    pool.run(15, IDLE)
    assert pool.run(1, PoolLoad(workers=1, utilisation=0.5, burn=20.0)) == [2]


def test_down_goes_one_at_a_time_after_a_minute_of_less() -> None:
    pool = Pool(workers=4)
    wanted = pool.run(300, busy(0.1))
    assert wanted[:58] == [4] * 58
    assert sorted(wanted, reverse=True) == wanted
    assert wanted[-1] == 1


def test_a_load_that_comes_and_goes_does_not_make_it_flap() -> None:
    pool = Pool(workers=2)
    seen = []
    for _ in range(20):
        seen += pool.run(20, busy(0.2)) + pool.run(10, busy(0.65))
    assert set(seen) == {2}


def test_to_zero_only_where_that_is_allowed_and_back_at_the_first_record() -> None:
    assert set(Pool().run(1_000, IDLE)) == {1}
    pool = Pool(bounds=Bounds(least=0, most=4))
    wanted = pool.run(500, IDLE)
    assert wanted.index(0) >= 295
    assert pool.run(1, PoolLoad(workers=0, backlog_tokens=128)) == [1]


loads = st.builds(
    PoolLoad,
    workers=st.integers(0, 10),
    backlog_tokens=st.floats(0, 1e9),
    capacity=st.floats(0, 1e5),
    utilisation=st.floats(0, 1),
    burn=st.floats(0, 1_000),
    cold_start_seconds=st.floats(0, 100),
)


@given(st.lists(st.tuples(loads, st.floats(0, 100)), max_size=30), st.integers(0, 3), st.integers(0, 5))
def test_whatever_comes_it_stays_within_bounds_and_steps(
    history: list[tuple[PoolLoad, float]], least: int, width: int
) -> None:
    bounds = Bounds(least=least, most=max(1, least + width))
    state, now = None, 0.0
    for load, seconds in history:
        now += seconds
        after = next_state(state, load, bounds=bounds, rules=RULES, now=now)
        assert bounds.least <= after.desired <= bounds.most
        if state is not None:
            assert -1 <= after.desired - state.desired <= RULES.up_step
            changed = after.desired != state.desired
            assert not changed or state.desired == 0 or now - state.changed_at >= RULES.cooldown_seconds
        state = after


def test_the_settings_text_is_read() -> None:
    assert parse_bounds("default=1..4, other=0..2") == {"default": BOUNDS, "other": Bounds(least=0, most=2)}
    assert parse_bounds(None) == {}


@pytest.mark.parametrize("text", ["default", "default=4", "default=4..1", "default=0..0", "=1..2", "a=x..2"])
def test_bounds_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidBounds):
        parse_bounds(text)
