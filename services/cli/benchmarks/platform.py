"""What the platform itself adds: everything real but the model, which is a hash in the engine process's place.

Same socket, same ledger, same topics. First a low fixed rate, where time to first token is all ours, beside the floor
of the machine (`floor.py`); then as much as it bears, over HTTP, over Kafka, and in streamed tokens. Each phase also
says what processor time it took, by service: the figure to compare by where other work shares the machine.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.cli.benchmarks.floor import floor_seconds
from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.http_load import Tally, chat_body, closed_loop, fixed_rate
from services.cli.benchmarks.kafka_load import burst, round_trips
from services.cli.benchmarks.processor_time import ProcessorClock, spent
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
    low_rate_trips: int = 100
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
            return await PlatformMeasurement(stack, load, report).run()


@dataclass(slots=True)
class _Phase:
    """`count` is what the phase's processor time is divided by; the phase sets it."""

    count: int = 0


@dataclass(slots=True)
class PlatformMeasurement:
    """The phases, one after the other, on a stack that is ready."""

    stack: EmbeddedStack
    load: PlatformLoad
    report: Callable[[str], None]
    figures: list[Figure] = field(default_factory=list)
    _clock: ProcessorClock = field(default_factory=ProcessorClock)

    async def run(self) -> list[Figure]:
        load = self.load
        self.report("warming up")
        body = partial(chat_body, model=MODEL, max_tokens=16, stream=True)
        await closed_loop(self.stack.http_url, body, seconds=load.warm_up_seconds, concurrency=8)
        await self.floor()
        await self.low_rate_http()
        self._compare_with_floor()
        await self.low_rate_kafka()
        await self.requests_http()
        await self.tokens_http()
        await self.requests_kafka()
        return sorted(self.figures, key=lambda figure: figure.name.startswith("cpu_"))

    async def floor(self) -> None:
        load, addresses = self.load, self.stack.addresses
        count = max(1, int(load.low_rate_per_second * load.low_rate_seconds))
        async with self._phase("floor_record", "the floor: Kafka and Redis alone") as phase:
            times = await asyncio.to_thread(
                floor_seconds, addresses.kafka, addresses.redis, count=count, per_second=load.low_rate_per_second
            )
            phase.count = len(times)
        self._add("floor_p50_ms", percentile(times, 0.5) * 1e3, "ms")
        self._add("floor_p99_ms", percentile(times, 0.99) * 1e3, "ms")

    def _compare_with_floor(self) -> None:
        """How many floors the first token is high: comparable between machines, as milliseconds are not."""
        value = {figure.name: figure.value for figure in self.figures}
        ratio = value["http_first_token_p50_ms"] / value["floor_p50_ms"]
        self._add("http_first_token_p50_per_floor", ratio, "x")

    async def low_rate_http(self) -> None:
        load = self.load
        async with self._phase("low_rate", f"{load.low_rate_per_second:.0f} requests/s over HTTP") as phase:
            tally = await fixed_rate(
                self.stack.http_url,
                model=MODEL,
                per_second=load.low_rate_per_second,
                seconds=load.low_rate_seconds,
                max_tokens=8,
            )
            phase.count = _counted(tally)
        self._add("http_first_token_p50_ms", percentile(tally.first_token_seconds, 0.5) * 1e3, "ms")
        self._add("http_first_token_p99_ms", percentile(tally.first_token_seconds, 0.99) * 1e3, "ms")

    async def low_rate_kafka(self) -> None:
        count = self.load.low_rate_trips
        async with self._phase("kafka_round_trip", "single records over Kafka") as phase:
            trips = await asyncio.to_thread(
                round_trips, self.stack.addresses.kafka, **_topics(), count=count, per_second=10.0
            )
            phase.count = len(trips)
        self._add("kafka_round_trip_p50_ms", percentile(trips, 0.5) * 1e3, "ms")
        self._add("kafka_round_trip_p99_ms", percentile(trips, 0.99) * 1e3, "ms")

    async def requests_http(self) -> None:
        async with self._phase("http_request", "as many requests over HTTP as it bears") as phase:
            tally, seconds = await self._closed_loop(max_tokens=1, stream=False)
            phase.count = _counted(tally)
        self._add("http_requests_per_second", tally.requests / seconds, "requests/s", at_most=False)

    async def tokens_http(self) -> None:
        tokens_per_stream = self.load.tokens_per_stream
        async with self._phase("http_1000_tokens", "as many tokens over HTTP as it bears") as phase:
            tally, seconds = await self._closed_loop(max_tokens=tokens_per_stream, stream=True)
            tokens = _counted(tally) * tokens_per_stream
            phase.count = max(1, tokens // 1_000)
        self._add("http_tokens_per_second", tokens / seconds, "tokens/s", at_most=False)

    async def requests_kafka(self) -> None:
        records = self.load.kafka_records
        async with self._phase("kafka_request", f"{records} records over Kafka") as phase:
            tally = await asyncio.to_thread(
                burst, self.stack.addresses.kafka, **_topics(), records=records, max_tokens=1
            )
            phase.count = records
        if tally.answered < records or tally.failed:
            raise CommandFailed(f"only {tally.answered} of {records} records answered, {tally.failed} failed")
        self._add("kafka_requests_per_second", records / tally.seconds, "requests/s", at_most=False)

    async def _closed_loop(self, *, max_tokens: int, stream: bool) -> tuple[Tally, float]:
        load = self.load
        return await closed_loop(
            self.stack.http_url,
            partial(chat_body, model=MODEL, max_tokens=max_tokens, stream=stream),
            seconds=load.full_seconds,
            concurrency=load.concurrency,
        )

    @asynccontextmanager
    async def _phase(self, name: str, announcement: str) -> AsyncIterator[_Phase]:
        """Figures of the processor time that the phase took, by service and in all."""
        self.report(announcement)
        phase = _Phase()
        before, began = self._clock.read(), time.perf_counter()
        yield phase
        seconds = time.perf_counter() - began
        used = spent(before, self._clock.read())
        for service, busy in {"all": sum(used.values()), **used}.items():
            value = busy * 1e3 / max(1, phase.count)
            self.figures.append(Figure(name=f"cpu_ms_per_{name}.{service}", value=value, unit="ms"))
        self.figures.append(Figure(name=f"cpu_cores.{name}", value=sum(used.values()) / seconds, unit="cores"))

    def _add(self, name: str, value: float, unit: str, *, at_most: bool = True) -> None:
        self.figures.append(Figure(name=name, value=value, unit=unit, goal=GOALS.get(name), at_most=at_most))


def _topics() -> dict[str, str]:
    names = TopicNames()
    return {"requests_topic": names.requests("default", Lane.INTERACTIVE), "results_topic": names.results}


def _counted(tally: Tally) -> int:
    if tally.errors:
        raise CommandFailed(f"{len(tally.errors)} requests failed, the first with {tally.errors[0]}")
    return tally.requests
