"""Who has had more than a share."""

import pytest

from shared.resilience.clock import ManualClock
from shared.resilience.fair_shares import FairShares


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_alone_nobody_is_over(clock: ManualClock) -> None:
    shares = FairShares(clock=clock)
    shares.got("a", 1_000)
    assert not shares.is_over("a")


def test_between_two_more_than_half_is_over(clock: ManualClock) -> None:
    shares = FairShares(clock=clock)
    shares.got("a", 60)
    shares.got("b", 40)
    assert (shares.is_over("a"), shares.is_over("b")) == (True, False)


def test_who_only_asked_counts_among_those_who_share(clock: ManualClock) -> None:
    shares = FairShares(clock=clock)
    shares.got("a", 60)
    shares.asked("b")
    assert shares.is_over("a")
    assert not shares.is_over("b")


def test_weights_divide(clock: ManualClock) -> None:
    shares = FairShares(clock=clock, weights={"a": 3})
    shares.got("a", 74)
    shares.got("b", 26)
    assert (shares.is_over("a"), shares.is_over("b")) == (False, True)


def test_usage_fades_and_who_stopped_asking_does_not_share(clock: ManualClock) -> None:
    shares = FairShares(clock=clock, fade_seconds=5.0, active_seconds=10.0)
    shares.got("a", 100)
    clock.move(9)
    shares.got("b", 30)
    assert shares.is_over("b"), "100 have faded to 17"
    clock.move(2)
    assert not shares.is_over("b"), "a has not asked for eleven seconds"


def test_somebody_unknown_is_not_over(clock: ManualClock) -> None:
    shares = FairShares(clock=clock)
    shares.got("a", 1)
    assert not shares.is_over("b")


def test_keys_that_callers_invent_do_not_fill_the_memory(clock: ManualClock) -> None:
    shares = FairShares(clock=clock)
    for number in range(25_000):
        clock.move(0.001)
        shares.asked(f"t{number}")
    assert len(shares._usage) <= 10_000


def test_a_weight_is_positive(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="positive"):
        FairShares(clock=clock, weights={"a": 0.0})
