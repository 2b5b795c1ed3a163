"""Measures round trips to Kafka and the ledger: how long those took that worked, how many failed and why."""

import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from shared.contracts.errors import TransientError
from shared.telemetry.metrics import KAFKA_FAILURES, KAFKA_LATENCY, LEDGER_FAILURES, LEDGER_LATENCY


@contextmanager
def kafka_round_trip(operation: str, *failures: type[Exception]) -> Iterator[None]:
    """Counts as failed what raises a `TransientError` or one of `failures`, by the name of its deepest cause."""
    started = time.perf_counter()
    try:
        yield
    except (TransientError, *failures) as error:  # type: ignore[misc]
        KAFKA_FAILURES.labels(operation=operation, reason=_root(error)).inc()
        raise
    KAFKA_LATENCY.labels(operation=operation).observe(time.perf_counter() - started)


async def timed(operation: str, action: Awaitable[None], *failures: type[Exception]) -> None:
    """`kafka_round_trip` around one awaitable."""
    with kafka_round_trip(operation, *failures):
        await action


@contextmanager
def ledger_round_trip(verb: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    except TransientError:
        LEDGER_FAILURES.labels(verb=verb).inc()
        raise
    LEDGER_LATENCY.labels(verb=verb).observe(time.perf_counter() - started)


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
