"""How a metric is declared: a name cannot exist without a meaning and advice for the person it wakes up.

Knows prometheus_client and its own registry; refuses to know which metrics there are (`metrics.py`) and who scrapes
them (`metrics_http.py`). Label names come from one short list, so that nobody can put a request id, a tenant or a
path on a metric and fill the memory of every scraper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry(auto_describe=True)
"""Our own registry: a library that registers something in prometheus_client's global one cannot break ours."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

LABELS: dict[str, str] = {
    "answer": "what the ledger answered to a claim",
    "blame": "caller, platform or nobody",
    "breaker": "what a circuit breaker protects: kafka, redis, worker or pool",
    "code": "the code of an error class of `shared/contracts/errors.py`",
    "event": "a kind of fleet event",
    "kind": "`prompt`, `cached` or `completion`",
    "lane": "interactive or bulk",
    "level": "an objective: availability, first-token or inter-token",
    "model": "a served model name, as the operator configured it",
    "operation": "one of a fixed set of operations, named by the code that measures",
    "outcome": "completed, failed, cancelled, expired or dead-lettered",
    "partition": "a Kafka partition that this process holds",
    "pool": "a worker pool, as the operator configured it",
    "reason": "one of a fixed set of reasons, named by the code that counts",
    "route": "the template of a route of the gateway, never a path",
    "state": "one of a fixed set of states",
    "status": "an HTTP status code",
    "topic": "a Kafka topic of the installation",
    "verdict": "`accepted` or `rejected`",
    "verb": "a verb of the ledger's protocol",
}
"""Every label there may be, and what its values are. All of them are small sets that no client can enlarge."""

MILLISECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Buckets of a round trip inside the platform."""
LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Buckets of what a client waits for."""
SMALL_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDescription:
    """One line of docs/metrics.md."""

    name: str
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    meaning: str
    what_to_do: str


CATALOGUE: dict[str, MetricDescription] = {}
"""Every declared metric by its exposed name, in the order of declaration."""


def _describe(
    kind: MetricKind, name: str, unit: str, labels: Sequence[str], meaning: str, what_to_do: str
) -> MetricDescription:
    if not name.startswith("penstock_"):
        raise ValueError(f"metric {name} must start with penstock_")
    if name in CATALOGUE:
        raise ValueError(f"metric {name} is declared twice")
    if (kind is MetricKind.COUNTER) != name.endswith("_total"):
        raise ValueError(f"metric {name}: counters, and only counters, end in _total")
    unbounded = [label for label in labels if label not in LABELS]
    if unbounded:
        raise ValueError(f"metric {name}: labels {unbounded} are not in the list of bounded labels")
    if not meaning.strip() or not what_to_do.strip():
        raise ValueError(f"metric {name} needs a meaning and what to do")
    description = MetricDescription(
        name=name, kind=kind, unit=unit, labels=tuple(labels), meaning=meaning, what_to_do=what_to_do
    )
    CATALOGUE[name] = description
    return description


def counter(name: str, *, unit: str, labels: Sequence[str] = (), meaning: str, what_to_do: str) -> Counter:
    _describe(MetricKind.COUNTER, name, unit, labels, meaning, what_to_do)
    return Counter(name, meaning, labels, registry=REGISTRY)


def gauge(name: str, *, unit: str, labels: Sequence[str] = (), meaning: str, what_to_do: str) -> Gauge:
    _describe(MetricKind.GAUGE, name, unit, labels, meaning, what_to_do)
    return Gauge(name, meaning, labels, registry=REGISTRY)


def histogram(
    name: str,
    *,
    unit: str,
    labels: Sequence[str] = (),
    meaning: str,
    what_to_do: str,
    buckets: Sequence[float] = LATENCIES,
) -> Histogram:
    _describe(MetricKind.HISTOGRAM, name, unit, labels, meaning, what_to_do)
    return Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)


Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class Children(dict[str, Metric], Generic[Metric]):
    """The children of a metric by its one open label, each bound at its first use.

    `labels()` of prometheus_client takes a lock and builds a tuple each time; on a path that runs per token this
    dictionary costs a lookup: `by_kind = Children(TOKENS, pool="default"); by_kind["completion"].inc(3)`.
    """

    def __init__(self, metric: Metric, **fixed: str) -> None:
        super().__init__()
        open_labels = [label for label in metric._labelnames if label not in fixed]
        if len(open_labels) != 1 or len(fixed) + 1 != len(metric._labelnames):
            raise ValueError(f"fix all labels of {metric._labelnames} but one, not {sorted(fixed)}")
        self._metric: Metric = metric
        self._fixed = fixed
        self._open_label = open_labels[0]

    def __missing__(self, value: str) -> Metric:
        child: Metric = self._metric.labels(**self._fixed, **{self._open_label: value})
        self[value] = child
        return child
