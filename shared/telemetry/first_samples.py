"""Counters that exist before their first event: `increase()` of a series that is born at 1 is 0, and an alert on the
first dead letter of a worker would never fire. Called once, at a service's start, for the labels it may use.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter

from shared.contracts.errors import error_classes
from shared.telemetry.metrics import (
    BREAKER_REJECTIONS,
    BREAKER_TRANSITIONS,
    DEAD_LETTERS,
    ENGINE_RESTARTS,
    ERRORS,
    RETRIES,
)


def begin_at_zero(metric: Counter, **values: Iterable[str]) -> None:
    """Expose a series for every combination of label values."""
    for combination in product(*values.values()):
        metric.labels(**dict(zip(values, combination, strict=True)))


def begin_errors() -> None:
    """Of gateways and workers: every error class."""
    for code, error in error_classes().items():
        begin_at_zero(ERRORS, code=[code], blame=[error.blame.value])


def begin_delivery(pool: str) -> None:
    """Of a worker."""
    codes = list(error_classes())
    begin_at_zero(DEAD_LETTERS, pool=[pool], code=codes)
    begin_at_zero(RETRIES, pool=[pool], code=codes)
    begin_at_zero(ENGINE_RESTARTS, pool=[pool], reason=["died", "hung"])


def begin_breaker(kind: str) -> None:
    begin_at_zero(BREAKER_TRANSITIONS, breaker=[kind], state=["closed", "open", "half-open"])
    begin_at_zero(BREAKER_REJECTIONS, breaker=[kind])
