"""What `/metrics` said, as numbers: histograms of several processes added up, and quantiles of what is new in them.

Source of the quantile: Prometheus' `histogram_quantile`, linear within a bucket.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

QUANTILES = (0.5, 0.9, 0.99)
LATENCIES = {
    "queue wait": "penstock_queue_wait_seconds",
    "time to first token": "penstock_time_to_first_token_seconds",
    "between tokens": "penstock_inter_token_latency_seconds",
    "HTTP answer": "penstock_http_request_duration_seconds",
}
Scrape = Mapping[str, Mapping[float, float]]
"""By histogram: how many observations were at most so large, over all labels and processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    name: str
    per_second: float
    quantiles: tuple[float, ...]


def parse(text: str) -> Scrape:
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    wanted = {f"{metric}_bucket": metric for metric in LATENCIES.values()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (metric := wanted.get(sample.name)) is not None:
                buckets[metric][float(sample.labels["le"])] += sample.value
    return buckets


def merged(scrapes: Iterable[Scrape]) -> Scrape:
    total: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for scrape in scrapes:
        for metric, buckets in scrape.items():
            for bound, count in buckets.items():
                total[metric][bound] += count
    return total


def latency_rows(first: Scrape, last: Scrape, seconds: float) -> list[LatencyRow]:
    """What was observed between two scrapes; a process that went away in between takes nothing below zero."""
    rows = []
    for name, metric in LATENCIES.items():
        before = first.get(metric, {})
        new = {bound: max(0.0, count - before.get(bound, 0.0)) for bound, count in last.get(metric, {}).items()}
        observed = new.get(math.inf, 0.0)
        quantiles = tuple(quantile(new, share) for share in QUANTILES) if observed else (0.0,) * len(QUANTILES)
        rows.append(LatencyRow(name=name, per_second=observed / seconds, quantiles=quantiles))
    return rows


def quantile(buckets: Mapping[float, float], share: float) -> float:
    """The largest finite bound where the rank lies beyond it."""
    rank = share * buckets[math.inf]
    lower, below = 0.0, 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower, below) if math.isinf(bound) else (bound, count)
    return lower
