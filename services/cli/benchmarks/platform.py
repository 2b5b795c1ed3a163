"""What the platform itself adds: everything real but the model, which is a hash in the engine process's place.

Same socket, same ledger, same topics. First a low fixed rate, where time to first token is all ours; then as much as
the machine bears, over HTTP, over Kafka, and in streamed tokens.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.http_load import Tally, closed_loop, fixed_rate
from services.cli.benchmarks.kafka_load import burst, round_trips
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from shared.contracts.requests import Lane
from shared.contracts.topics import TopicNames

MODEL = "null"
GOALS = {
    "http_first_token_p50_ms": 7.0,
    "http_first_token_p99_ms": 20.0,
    "http_requests_per_second": 500.0,
    "kafka_requests_per_second": 1500.0,
    "http_tokens_per_second": 50_000.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLoad:
    """How hard and how long. The defaults take about a minute."""

    warm_up_seconds: float = 6.0
    low_rate_per_second: float = 20.0
    low_rate_seconds: float = 15.0
    full_seconds: float = 10.0
    concurrency: int = 64
    kafka_records: int = 15_000
    tokens_per_stream: int = 256
    workers: int = 1
    trace_sample_ratio: float = 0.01


async def measure_platform(load: PlatformLoad, *, report: Callable[[str], None]) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        plan = StackPlan(
            data_dir=Path(directory),
            pools=(PoolPlan(workers=load.workers, served_model_name=MODEL),),
            environment={
                "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": str(load.trace_sample_ratio),
                "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
            },
        )
        async with EmbeddedStack(plan, report=report) as stack:
            await stack.wait_until_ready()
            return await _measure(stack, load, report)


async def _measure(stack: EmbeddedStack, load: PlatformLoad, report: Callable[[str], None]) -> list[Figure]:
    report("warming up")
    await closed_loop(
        stack.http_url, model=MODEL, seconds=load.warm_up_seconds, max_tokens=16, concurrency=8, stream=True
    )
    report(f"{load.low_rate_per_second:.0f} requests/s over HTTP")
    low = await fixed_rate(
        stack.http_url,
        model=MODEL,
        per_second=load.low_rate_per_second,
        seconds=load.low_rate_seconds,
        max_tokens=8,
    )
    _require_no_errors(low)
    names = TopicNames()
    topics = {"requests_topic": names.requests("default", Lane.INTERACTIVE), "results_topic": names.results}
    report("single records over Kafka")
    trips = await asyncio.to_thread(round_trips, stack.addresses.kafka, **topics, count=100, per_second=10.0)
    report("as many requests over HTTP as it bears")
    requests, request_seconds = await closed_loop(
        stack.http_url,
        model=MODEL,
        seconds=load.full_seconds,
        max_tokens=1,
        concurrency=load.concurrency,
        stream=False,
    )
    _require_no_errors(requests)
    report("as many tokens over HTTP as it bears")
    tokens, token_seconds = await closed_loop(
        stack.http_url,
        model=MODEL,
        seconds=load.full_seconds,
        max_tokens=load.tokens_per_stream,
        concurrency=load.concurrency,
        stream=True,
    )
    _require_no_errors(tokens)
    report(f"{load.kafka_records} records over Kafka")
    records = await asyncio.to_thread(burst, stack.addresses.kafka, **topics, records=load.kafka_records, max_tokens=1)
    if records.answered < load.kafka_records or records.failed:
        raise CommandFailed(
            f"only {records.answered} of {load.kafka_records} records answered, {records.failed} failed"
        )
    streamed_tokens = tokens.requests * load.tokens_per_stream
    return [
        _goal("http_first_token_p50_ms", percentile(low.first_token_seconds, 0.5) * 1e3, "ms"),
        _goal("http_first_token_p99_ms", percentile(low.first_token_seconds, 0.99) * 1e3, "ms"),
        Figure(name="kafka_round_trip_p50_ms", value=percentile(trips, 0.5) * 1e3, unit="ms"),
        Figure(name="kafka_round_trip_p99_ms", value=percentile(trips, 0.99) * 1e3, unit="ms"),
        _goal("http_requests_per_second", requests.requests / request_seconds, "requests/s", at_most=False),
        _goal("http_tokens_per_second", streamed_tokens / token_seconds, "tokens/s", at_most=False),
        _goal("kafka_requests_per_second", records.answered / records.seconds, "requests/s", at_most=False),
    ]


def _goal(name: str, value: float, unit: str, *, at_most: bool = True) -> Figure:
    return Figure(name=name, value=value, unit=unit, goal=GOALS[name], at_most=at_most)


def _require_no_errors(tally: Tally) -> None:
    if tally.errors:
        raise CommandFailed(f"{len(tally.errors)} requests failed, the first with {tally.errors[0]}")
