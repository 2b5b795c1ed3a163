"""Who may still come through, and what is left when everybody has gone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.resilience.bulkhead import Bulkhead


def test_beyond_its_number_a_key_is_shut_out_and_others_are_not() -> None:
    bulkhead = Bulkhead(most=2)
    for _ in range(2):
        assert bulkhead.is_open("flood", 1)
        bulkhead.enter("flood", 1)
    assert not bulkhead.is_open("flood", 1)
    assert bulkhead.is_open("calm", 1)
    bulkhead.leave("flood", 1)
    assert bulkhead.is_open("flood", 1)


def test_the_amount_is_bounded_too() -> None:
    bulkhead = Bulkhead(most_amount=100)
    bulkhead.enter("flood", 60)
    assert bulkhead.is_open("flood", 40)
    assert not bulkhead.is_open("flood", 41)


def test_a_single_one_larger_than_the_whole_is_let_in_alone() -> None:
    bulkhead = Bulkhead(most_amount=100)
    assert bulkhead.is_open("flood", 500)
    bulkhead.enter("flood", 500)
    assert not bulkhead.is_open("flood", 1)


def test_without_bounds_everybody_is_let_in() -> None:
    bulkhead = Bulkhead()
    for _ in range(1_000):
        bulkhead.enter("flood", 1_000)
    assert bulkhead.is_open("flood", 1)


@pytest.mark.parametrize("bounds", [{"most": 0}, {"most_amount": 0}])
def test_a_bound_that_lets_nobody_in_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Bulkhead(**bounds)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.booleans()), max_size=60))
def test_the_bounds_hold_at_every_moment_and_nothing_is_kept_of_who_has_left(
    moves: list[tuple[str, int, bool]],
) -> None:
    bulkhead, under_way = Bulkhead(most=4, most_amount=100), dict[str, list[int]]()
    for key, amount, is_leaving in moves:
        mine = under_way.setdefault(key, [])
        if is_leaving and mine:
            bulkhead.leave(key, mine.pop())
        elif bulkhead.is_open(key, amount):
            bulkhead.enter(key, amount)
            mine.append(amount)
        assert len(mine) <= 4
        assert sum(mine) <= 100
    for key, mine in under_way.items():
        for amount in mine:
            bulkhead.leave(key, amount)
    assert bulkhead._held == {}
