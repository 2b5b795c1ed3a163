"""Additive increase, multiplicative decrease."""

import pytest

from shared.resilience.adaptive_limit import AdaptiveLimit
from shared.resilience.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_round_of_good_ends_raises_it_by_one(clock: ManualClock) -> None:
    limit = AdaptiveLimit(clock=clock, initial=10)
    for _ in range(11):
        limit.ended(is_good=True, under_way=10)
    assert limit.limit == 11


def test_a_limit_that_nobody_reaches_does_not_grow(clock: ManualClock) -> None:
    limit = AdaptiveLimit(clock=clock, initial=10)
    for _ in range(100):
        limit.ended(is_good=True, under_way=4)
    assert limit.limit == 10


def test_a_bad_end_cuts_it_once_until_that_is_felt(clock: ManualClock) -> None:
    limit = AdaptiveLimit(clock=clock, initial=10, decrease=0.8)
    for _ in range(5):
        limit.ended(is_good=False, under_way=10)
    assert limit.limit == 8
    clock.move(1)
    limit.ended(is_good=False, under_way=8)
    assert limit.limit == 6


def test_it_stays_within_its_bounds(clock: ManualClock) -> None:
    limit = AdaptiveLimit(clock=clock, initial=4, least=2, most=5)
    for _ in range(100):
        limit.ended(is_good=True, under_way=5)
    assert limit.limit == 5
    for _ in range(100):
        clock.move(1)
        limit.ended(is_good=False, under_way=5)
    assert limit.limit == 2


def test_it_finds_the_capacity_of_what_it_protects(clock: ManualClock) -> None:
    """Beyond 20 at a time answers are late: the limit ends near 20, from below and from above."""
    for initial in (4.0, 200.0):
        limit = AdaptiveLimit(clock=clock, initial=initial)
        for _ in range(4_000):
            clock.move(0.05)
            limit.ended(is_good=limit.limit <= 20, under_way=limit.limit)
        assert 15 <= limit.limit <= 21


@pytest.mark.parametrize("wrong", [{"initial": 0.5}, {"initial": 9, "most": 8}, {"initial": 5, "decrease": 1.0}])
def test_rules_that_make_no_sense_are_refused(clock: ManualClock, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|decrease"):
        AdaptiveLimit(clock=clock, **wrong)
