"""What a dashboard is here: titled panels of PromQL, each described by the catalogue's own words. Draws nothing.

`WINDOW` stands for the rate window in every query: Grafana's own variable when drawn, a plain duration when asked by
a test or an alert.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

WINDOW = "$__rate_interval"

_METRIC = re.compile(r"(?<![:\w])penstock_[a-z_]+\b")
_HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")


class Shows(StrEnum):
    """When a query has something to show. A healthy stack has no failovers and no dead letters."""

    LOAD = "under load"
    FAULT = "only on a fault"


@dataclass(frozen=True, slots=True)
class Query:
    expression: str
    legend: str = ""
    shows: Shows = Shows.LOAD


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is Grafana's name of one: s, reqps, short, percentunit, bytes, none."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    is_stacked: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for query in self.queries for name in metrics_of(query.expression)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    uid: str
    title: str
    description: str
    rows: dict[str, tuple[Panel, ...]] = field(default_factory=dict)

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for panels in self.rows.values() for panel in panels)


def metrics_of(expression: str) -> list[str]:
    """The catalogue's names in a query: a histogram's parts count as the histogram."""
    return [_HISTOGRAM_PARTS.sub("", name) for name in _METRIC.findall(expression)]


def rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}[{WINDOW}]))"


def total(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) ({metric})"


def quantile(share: float, histogram: str, *labels: str) -> str:
    return f"histogram_quantile({share:g}, sum by ({', '.join(('le', *labels))}) (rate({histogram}_bucket[{WINDOW}])))"


def quantiles(histogram: str, *labels: str, shows: Shows = Shows.LOAD) -> tuple[Query, ...]:
    """p50, p95 and p99, each by `labels`."""
    suffix = "".join(f" {{{{{label}}}}}" for label in labels)
    return tuple(
        Query(quantile(share, histogram, *labels), f"p{share * 100:g}{suffix}", shows) for share in (0.5, 0.95, 0.99)
    )


def by(metric: str, *labels: str, shows: Shows = Shows.LOAD) -> tuple[Query, ...]:
    """A counter's rate by labels."""
    return (Query(rate(metric, *labels), " ".join(f"{{{{{label}}}}}" for label in labels), shows),)


def now(metric: str, *labels: str, shows: Shows = Shows.LOAD) -> tuple[Query, ...]:
    """A gauge's sum by labels."""
    return (Query(total(metric, *labels), " ".join(f"{{{{{label}}}}}" for label in labels), shows),)
