"""The plan of arrivals, and what is told of the answers."""

import itertools
import statistics

import pytest

from tests.benchmarks.peers.mixed_load import Arrival, felt, plan


def test_the_plan_is_the_same_for_every_engine() -> None:
    assert plan(50, per_second=2.0, longest=512) == plan(50, per_second=2.0, longest=512)
    assert plan(50, per_second=2.0, longest=512) != plan(50, per_second=2.0, longest=512, seed=6)


def test_arrivals_come_one_after_another_at_the_rate_that_was_asked_for() -> None:
    arrivals = plan(4000, per_second=2.0, longest=512)
    gaps = [late.seconds - early.seconds for early, late in itertools.pairwise(arrivals)]
    assert min(gaps) >= 0
    assert statistics.mean(gaps) == pytest.approx(0.5, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(0.5, rel=0.15), "exponential, not even"


def test_no_length_is_longer_than_allowed_and_most_are_of_a_chat() -> None:
    arrivals = plan(2000, per_second=1.0, longest=512)
    assert max(max(one.prompt_tokens, one.output_tokens) for one in arrivals) == 512
    assert min(min(one.prompt_tokens, one.output_tokens) for one in arrivals) >= 4
    assert 90 < statistics.median(one.prompt_tokens for one in arrivals) < 130
    assert 190 < statistics.median(one.output_tokens for one in arrivals) < 260


def test_what_is_felt_is_counted_from_the_arrival() -> None:
    arrivals = [Arrival(seconds=start, prompt_tokens=5, output_tokens=3) for start in (0.0, 1.0)]
    told = felt(arrivals, [[0.5, 0.6, 0.8], [1.25, 1.5, 2.0]])
    assert told["output_tokens_per_second"] == 3.0
    assert told["first_token_p50_seconds"] == 0.25
    assert told["first_token_p99_seconds"] == 0.5
    assert told["gap_p99_seconds"] == pytest.approx(0.5)
    assert told["gap_p50_seconds"] == pytest.approx(0.2)
