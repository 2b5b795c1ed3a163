"""Histograms of /metrics as rates and quantiles."""

import math

import pytest

from services.cli.scraped_metrics import latency_rows, merged, parse, quantile

TEXT = """
# TYPE penstock_queue_wait_seconds histogram
penstock_queue_wait_seconds_bucket{{pool="a",lane="bulk",le="0.1"}} {0}
penstock_queue_wait_seconds_bucket{{pool="a",lane="bulk",le="1.0"}} {1}
penstock_queue_wait_seconds_bucket{{pool="a",lane="bulk",le="+Inf"}} {1}
penstock_queue_wait_seconds_bucket{{pool="a",lane="interactive",le="0.1"}} {0}
penstock_queue_wait_seconds_bucket{{pool="a",lane="interactive",le="1.0"}} {1}
penstock_queue_wait_seconds_bucket{{pool="a",lane="interactive",le="+Inf"}} {1}
"""


def test_labels_and_processes_are_added_up() -> None:
    scrape = merged([parse(TEXT.format(1, 3)), parse(TEXT.format(2, 4)), {}])
    assert scrape["penstock_queue_wait_seconds"] == {0.1: 6, 1.0: 14, math.inf: 14}


def test_only_what_is_new_between_two_scrapes_counts() -> None:
    row = latency_rows(parse(TEXT.format(100, 100)), parse(TEXT.format(100, 110)), seconds=2)[0]
    assert row.name == "queue wait"
    assert row.per_second == 10
    assert row.quantiles[0] == pytest.approx(0.55)  # the middle of the bucket that all ten are in


def test_what_was_not_scraped_is_no_traffic() -> None:
    assert [row.per_second for row in latency_rows({}, {}, seconds=1)] == [0, 0, 0, 0]


def test_a_process_that_began_anew_takes_nothing_below_zero() -> None:
    row = latency_rows(parse(TEXT.format(50, 60)), parse(TEXT.format(1, 2)), seconds=1)[0]
    assert row.per_second == 0


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0)])
def test_a_quantile_lies_within_its_bucket_by_its_rank(share: float, expected: float) -> None:
    assert quantile({1.0: 5, 2.0: 10, math.inf: 10}, share) == expected


def test_a_rank_beyond_every_finite_bound_is_the_largest_of_them() -> None:
    assert quantile({1.0: 1, math.inf: 10}, 0.99) == 1.0
