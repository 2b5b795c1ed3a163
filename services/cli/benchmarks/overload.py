"""What callers get when more is asked than there is: Poisson load around the measured capacity, with the real engine.

The objectives are fixed beforehand; goodput is answers within them. First the capacity, by as many callers as the
batch has places; then each factor of it, a rest after the last, and half the capacity once more to see whether the
platform has recovered. With `--no-admission` the gateway takes everything.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table

from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.http_load import Tally, closed_loop
from services.cli.benchmarks.open_loop import Sample, open_loop
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

FACTORS = (0.5, 0.9, 1.5, 3.0, 5.0)
_RECOVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """`model` None: the null engine with a step of 30 ms. Objectives: seconds to the first token, and to the last."""

    model: Path | None
    served_name: str
    dtype: str = "auto"
    seconds: float = 120.0
    factors: tuple[float, ...] = FACTORS
    max_tokens: int = 32
    slots: int = 16
    is_admission_on: bool = True
    first_token_seconds: float = 2.0
    answer_seconds: float = 10.0

    def body(self, number: int) -> bytes:
        messages = [{"role": "user", "content": f"Tell me something about the number {number}."}]
        body = {"model": self.served_name, "messages": messages, "max_tokens": self.max_tokens, "ignore_eos": True}
        return json.dumps({**body, "stream": True}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One factor. Goodput a second; seconds of admitted requests' first token and of refusals; memory at its end."""

    factor: float
    asked: int
    answered: int
    refused: int
    lost: int
    goodput: float
    first_token_p99: float
    refusal_p99: float
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadResult:
    capacity: float
    points: list[Point]
    recovered: Point


async def measure_overload(plan: OverloadPlan, *, report: Callable[[str], None]) -> OverloadResult:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        async with EmbeddedStack(_stack_plan(plan, Path(directory))) as stack:
            report("starting")
            await stack.wait_until_ready(timeout_seconds=600)
            report("measuring the capacity")
            await _closed(stack, plan, min(10.0, plan.seconds))
            tally, seconds = await _closed(stack, plan, min(30.0, plan.seconds))
            if not tally.requests:
                raise CommandFailed(f"nothing was answered: {tally.errors[:1]}")
            capacity = tally.requests / seconds
            points = []
            for factor in plan.factors:
                report(f"{factor} times the capacity of {capacity:.2f} requests/s")
                points.append(await _measure(stack, plan, capacity, factor, plan.seconds))
            report("resting")
            await asyncio.sleep(_RECOVERY_SECONDS)
            recovered = await _measure(stack, plan, capacity, 0.5, min(20.0, plan.seconds))
            return OverloadResult(capacity=capacity, points=points, recovered=recovered)


async def _closed(stack: EmbeddedStack, plan: OverloadPlan, seconds: float) -> tuple[Tally, float]:
    return await closed_loop(
        stack.http_url,
        model=plan.served_name,
        seconds=seconds,
        max_tokens=plan.max_tokens,
        concurrency=plan.slots,
        stream=True,
    )


async def _measure(stack: EmbeddedStack, plan: OverloadPlan, capacity: float, factor: float, seconds: float) -> Point:
    began = time.perf_counter()
    samples = await open_loop(
        stack.http_url, plan.body, per_second=capacity * factor, seconds=seconds, seed=round(100 * factor)
    )
    return point_of(plan, factor, samples, time.perf_counter() - began, _resident_bytes(stack))


def point_of(plan: OverloadPlan, factor: float, samples: list[Sample], took: float, resident_bytes: int) -> Point:
    """Goodput counts over the time until the last answer: who is answered late pays for it."""
    answered = [sample for sample in samples if sample.is_answered]
    refused = [sample for sample in samples if sample.status in (429, 503)]
    good = [
        sample
        for sample in answered
        if sample.first_seconds is not None
        and sample.first_seconds <= plan.first_token_seconds
        and sample.seconds <= plan.answer_seconds
    ]
    firsts = [sample.first_seconds for sample in answered if sample.first_seconds is not None]
    return Point(
        factor=factor,
        asked=len(samples),
        answered=len(answered),
        refused=len(refused),
        lost=len(samples) - len(answered) - len(refused),
        goodput=len(good) / took,
        first_token_p99=percentile(firsts, 0.99) if firsts else 0.0,
        refusal_p99=percentile([sample.seconds for sample in refused], 0.99) if refused else 0.0,
        resident_bytes=resident_bytes,
    )


def _resident_bytes(stack: EmbeddedStack) -> int:
    """Of the gateways and workers, engines included."""
    pids = [service.pid for service in stack.services if service.pid is not None]
    processes = [process for pid in pids for process in (psutil.Process(pid), *psutil.Process(pid).children())]
    return sum(process.memory_info().rss for process in processes)


def figures_of(plan: OverloadPlan, result: OverloadResult) -> list[Figure]:
    worst = max(result.points, key=lambda point: point.factor)
    best = max(point.goodput for point in result.points)
    refusals = [point.refusal_p99 for point in result.points if point.refused]
    beyond = [point for point in result.points if point.factor > 1]
    figures = [
        Figure(name="capacity_requests_per_second", value=result.capacity, unit="requests/s"),
        Figure(name="goodput_at_most_load_over_peak", value=worst.goodput / best, unit="", goal=0.95, at_most=False),
        Figure(
            name="first_token_p99_s",
            value=max(point.first_token_p99 for point in result.points),
            unit="s",
            goal=plan.first_token_seconds,
        ),
        Figure(name="lost", value=sum(point.lost for point in result.points), unit="requests", goal=0),
        Figure(name="recovered_refused", value=result.recovered.refused, unit="requests", goal=0),
        Figure(
            name="recovered_first_token_p99_s",
            value=result.recovered.first_token_p99,
            unit="s",
            goal=plan.first_token_seconds,
        ),
    ]
    if refusals:
        figures.append(Figure(name="refusal_p99_ms", value=max(refusals) * 1e3, unit="ms", goal=20))
    if len(beyond) > 1:
        growth = beyond[-1].resident_bytes / beyond[0].resident_bytes
        figures.append(Figure(name="memory_growth_under_overload", value=growth, unit="x", goal=1.1))
    return figures


def overload_table(result: OverloadResult) -> Table:
    table = Table(title=f"Overload; capacity {result.capacity:.2f} requests/s", title_justify="left")
    for column in ("load", "asked", "answered", "refused", "lost", "goodput /s", "first p99", "refusal p99", "memory"):
        table.add_column(column, justify="right")
    for name, point in [*((f"{point.factor}x", point) for point in result.points), ("after", result.recovered)]:
        table.add_row(
            name,
            *map(str, (point.asked, point.answered, point.refused, point.lost)),
            f"{point.goodput:.2f}",
            f"{point.first_token_p99:.2f} s",
            f"{point.refusal_p99 * 1e3:.1f} ms",
            f"{point.resident_bytes / 2**20:.0f} MiB",
        )
    return table


def _stack_plan(plan: OverloadPlan, directory: Path) -> StackPlan:
    workers = PoolPlan(
        workers=1,
        model=plan.model,
        served_model_name=plan.served_name,
        dtype=plan.dtype,
        environment={
            "PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(plan.slots),
            "PENSTOCK_WORKER_NULL_STEP_MS": "30",
        },
    )
    return StackPlan(
        data_dir=directory,
        pools=(workers,),
        environment={
            "PENSTOCK_GATEWAY_ADMISSION": str(plan.is_admission_on).lower(),
            "PENSTOCK_SLO_INTERACTIVE_FIRST_TOKEN_MS": str(round(plan.first_token_seconds * 1_000 * _MARGIN)),
            "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": "0.01",
            "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
        },
    )


_MARGIN = 0.6
"""The gateway's objective below the one that is judged: heartbeats are half a second old, rates averaged over five."""
