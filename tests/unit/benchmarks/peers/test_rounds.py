"""Turns, rates, ratios and limits: arithmetic that a table of benchmarks rests on."""

import pytest

from tests.benchmarks.peers.rounds import Figures, Shape, limit_of, percentile, rate_when_all_decode, turns

DECODE = Shape(name="batch 8", batch_size=8, prompt_tokens=32, output_tokens=33)
PREFILL = Shape(name="prefill", batch_size=1, prompt_tokens=512, output_tokens=1)


def test_everybody_is_measured_once_a_round_and_first_equally_often() -> None:
    orders = turns(["a", "b", "c"], 6)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert sorted(order[0] for order in orders) == ["a", "a", "b", "b", "c", "c"]


def test_a_decode_rate_leaves_the_prompt_and_the_first_token_out() -> None:
    assert DECODE.rate(2.0, 6.0) == 8 * 32 / 4.0
    assert not DECODE.is_prefill


def test_a_prefill_rate_counts_prompt_tokens_until_the_first_token() -> None:
    assert PREFILL.is_prefill
    assert PREFILL.rate(0.5, 0.5) == 1024


def test_noise_that_makes_more_tokens_seem_free_is_no_division_by_zero() -> None:
    assert DECODE.rate(2.0, 1.9) > 0


def test_a_spread_has_the_median_and_both_ends() -> None:
    figures = Figures()
    for rate in (5.0, 1.0, 3.0):
        figures.add("a", "x", rate)
    spread = figures.spread("a", "x")
    assert spread is not None
    assert (spread.median, spread.least, spread.most, spread.rounds) == (3.0, 1.0, 5.0, 3)
    assert figures.spread("b", "x") is None


def test_a_ratio_is_taken_within_rounds_so_that_a_busy_minute_cancels() -> None:
    figures = Figures()
    for own, peer in ((10.0, 5.0), (1.0, 0.5), (8.0, 4.0)):
        figures.add("own", "x", own)
        figures.add("peer", "x", peer)
    assert figures.ratio("own", "peer", "x") == 2.0
    assert figures.ratio("own", "nobody", "x") is None


def test_one_row_is_limited_by_reading_and_many_by_multiplying() -> None:
    one = Shape(name="one", batch_size=1, prompt_tokens=1, output_tokens=2)
    many = Shape(name="many", batch_size=1000, prompt_tokens=1, output_tokens=2)
    machine = {"weight_bytes": 10**9, "cache_bytes_per_token": 0, "bandwidth": 2e10, "flops": 4e11}
    assert limit_of(one, **machine) == pytest.approx(20)
    assert limit_of(many, **machine) == pytest.approx(400)
    assert limit_of(PREFILL, **machine) == pytest.approx(400)


def test_long_contexts_lower_the_limit_by_the_cache_they_read() -> None:
    machine = {"weight_bytes": 10**9, "bandwidth": 1e10, "flops": 1e13}
    long = Shape(name="long", batch_size=8, prompt_tokens=4096, output_tokens=2)
    without = limit_of(long, cache_bytes_per_token=0, **machine)
    assert limit_of(long, cache_bytes_per_token=30_518, **machine) == pytest.approx(without / 2, rel=0.01)


def test_only_the_time_in_which_all_decode_counts() -> None:
    early = [1.0, 2.0, 3.0, 4.0, 5.0]
    late = [3.0, 4.0, 5.0, 6.0, 7.0]
    assert rate_when_all_decode([early, late]) == 4 / 2.0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (0.25, 1), (0.26, 2)])
def test_percentiles_are_values_that_were_seen(share: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)
