"""The valve's two marks."""

from hypothesis import given
from hypothesis import strategies as st

from services.worker.saturation import Saturation, TokenMarks

MARKS = TokenMarks(high=100, low=75)


def test_it_pauses_at_the_high_mark_and_goes_on_at_the_low_one() -> None:
    saturation = Saturation(MARKS)
    paused = [
        saturation.should_pause(num_open_tokens=tokens, is_engine_ready=True)
        for tokens in (99, 100, 90, 76, 75, 90, 100)
    ]
    assert paused == [False, True, True, True, False, False, True]


def test_without_an_engine_nothing_is_taken() -> None:
    assert Saturation(MARKS).should_pause(num_open_tokens=0, is_engine_ready=False)


def test_an_engine_that_comes_back_does_not_hide_that_it_was_full() -> None:
    saturation = Saturation(MARKS)
    saturation.should_pause(num_open_tokens=100, is_engine_ready=False)
    assert saturation.should_pause(num_open_tokens=90, is_engine_ready=True)


@given(st.lists(st.integers(0, 300)))
def test_it_is_never_open_above_the_high_mark_nor_closed_below_the_low_one(loads: list[int]) -> None:
    saturation = Saturation(TokenMarks.below(100))
    for load in loads:
        is_paused = saturation.should_pause(num_open_tokens=load, is_engine_ready=True)
        assert is_paused or load < 100
        assert not is_paused or load > 75
