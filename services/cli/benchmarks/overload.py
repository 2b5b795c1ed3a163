"""What callers get when more is asked than there is: Poisson load around the measured capacity, with the real engine.

The objectives are fixed beforehand; goodput is answers within them. First the capacity, by as many callers as the
batch has places; then each factor of it, a rest after the last, and half the capacity once more to see whether the
platform has recovered. Callers hang up when their patience is over. With `--no-admission` the gateway takes everything.

The engine has fewer threads than the machine has cores, so that the model is the bottleneck and not the load
generator, Kafka and the gateway beside it; every point says how many cores the engine and the others used.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from services.cli.benchmarks.http_load import closed_loop
from services.cli.benchmarks.open_loop import Sample, open_loop
from services.cli.benchmarks.overload_points import Limits, OverloadRecord, Point, point_of
from services.cli.benchmarks.processor_time import ProcessorClock, spent
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

FACTORS = (0.5, 0.9, 1.5, 3.0, 5.0)
RECOVERY_SECONDS = 10.0
RECOVERY_FACTOR = 0.5
_MARGIN = 0.5
"""The gateway's objective below the one that is judged: heartbeats are half a second old, rates averaged over five."""
_SETTLE_SECONDS = 60.0
_KV_CACHE_BYTES = 96 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """`model` None: the null engine with a step of 30 ms. `slots`: requests in one batch of the engine."""

    model: Path | None
    served_name: str
    dtype: str = "auto"
    seconds: float = 120.0
    factors: tuple[float, ...] = FACTORS
    max_tokens: int = 64
    slots: int = 8
    threads: int = max(1, (os.cpu_count() or 2) - 1)
    is_admission_on: bool = True
    limits: Limits = field(default_factory=Limits)
    patience_seconds: float = 30.0

    @property
    def identity(self) -> dict[str, object]:
        """What two runs must have in common for their points to belong into one table."""
        return {
            "model": self.served_name,
            "max_tokens": self.max_tokens,
            "slots": self.slots,
            "threads": self.threads,
            "is_admission_on": self.is_admission_on,
        }

    def body(self, number: int) -> bytes:
        messages = [{"role": "user", "content": f"Tell me something about the number {number}."}]
        body = {"model": self.served_name, "messages": messages, "max_tokens": self.max_tokens, "ignore_eos": True}
        return json.dumps({**body, "stream": True}).encode()


async def measure_overload(
    plan: OverloadPlan,
    record: OverloadRecord,
    *,
    report: Callable[[str], None],
    measured: Callable[[Point], None] = lambda point: None,
) -> None:
    """Fill the record with the plan's points that it does not have yet. `measured` is told of each."""
    missing = [factor for factor in sorted(plan.factors) if factor not in record.factors]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        async with EmbeddedStack(_stack_plan(plan, Path(directory))) as stack:
            report("starting")
            await stack.wait_until_ready(timeout_seconds=600)
            await _warm_up(stack, plan, record, report)
            for factor in missing:
                report(f"{factor} times the capacity of {record.capacity:.2f} requests/s, for {plan.seconds:.0f} s")
                point = await _measure(stack, plan, record.capacity, factor, plan.seconds)
                record.add(point)
                measured(point)
                report("waiting until nothing is under way")
                if factor != missing[-1]:
                    await _settled(stack)
            report("resting")
            await asyncio.sleep(max(0.0, RECOVERY_SECONDS - point.tail_seconds))
            recovered = await _measure(stack, plan, record.capacity, RECOVERY_FACTOR, min(20.0, plan.seconds))
            record.recovered_with(recovered)
            measured(recovered)


async def _warm_up(
    stack: EmbeddedStack, plan: OverloadPlan, record: OverloadRecord, report: Callable[[str], None]
) -> None:
    """The first requests of a stack are slow; then the capacity, unless an earlier run has measured it."""
    report("warming up")
    await _capacity(stack, plan, min(10.0, plan.seconds))
    if not record.capacity:
        report("measuring the capacity")
        record.measured_capacity(await _capacity(stack, plan, min(30.0, plan.seconds)))


async def _capacity(stack: EmbeddedStack, plan: OverloadPlan, seconds: float) -> float:
    """Requests a second that as many callers get as the batch has places."""
    tally, took = await closed_loop(stack.http_url, plan.body, seconds=seconds, concurrency=plan.slots)
    if not tally.requests:
        raise CommandFailed(f"nothing was answered: {tally.errors[:1]}")
    return tally.requests / took


async def _measure(stack: EmbeddedStack, plan: OverloadPlan, capacity: float, factor: float, seconds: float) -> Point:
    clock = ProcessorClock()
    before, began = clock.read(), time.perf_counter()
    samples: list[Sample] = await open_loop(
        stack.http_url,
        plan.body,
        per_second=capacity * factor,
        seconds=seconds,
        seed=round(100 * factor),
        patience_seconds=plan.patience_seconds,
    )
    took = time.perf_counter() - began
    return point_of(
        plan.limits,
        factor,
        samples,
        seconds=seconds,
        took=took,
        resident_bytes=_resident_bytes(stack),
        processor_seconds=spent(before, clock.read()),
    )


async def _settled(stack: EmbeddedStack) -> None:
    """Until no worker has anything in hand: what callers gave up on must not burden the next point."""
    give_up_at = time.monotonic() + _SETTLE_SECONDS
    async with httpx.AsyncClient(base_url=stack.supervisor_url, timeout=5.0) as client:
        while time.monotonic() < give_up_at:
            workers = (await client.get("/fleet")).json()["workers"]
            in_hand = sum(
                worker["running_requests"] + worker["waiting_requests"] + worker["lag_records"] for worker in workers
            )
            if not in_hand:
                return
            await asyncio.sleep(0.5)
    raise CommandFailed(f"{in_hand} requests are still under way {_SETTLE_SECONDS:.0f} s after the load has ended")


def _resident_bytes(stack: EmbeddedStack) -> int:
    """Of the gateways and workers, engines included."""
    pids = [service.pid for service in stack.services if service.pid is not None]
    processes = [process for pid in pids for process in (psutil.Process(pid), *psutil.Process(pid).children())]
    return sum(process.memory_info().rss for process in processes)


def _stack_plan(plan: OverloadPlan, directory: Path) -> StackPlan:
    workers = PoolPlan(
        workers=1,
        model=plan.model,
        served_model_name=plan.served_name,
        dtype=plan.dtype,
        environment={
            "PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(plan.slots),
            "PENSTOCK_WORKER_NUM_THREADS": str(plan.threads),
            "PENSTOCK_WORKER_NULL_STEP_MS": "30",
            # Small enough to be touched as a whole while warming up: memory that grows later is a leak.
            "PENSTOCK_WORKER_KV_CACHE_BYTES": str(_KV_CACHE_BYTES),
        },
    )
    objective_ms = round(plan.limits.first_token_seconds * 1_000 * _MARGIN)
    return StackPlan(
        data_dir=directory,
        pools=(workers,),
        environment={
            "PENSTOCK_GATEWAY_ADMISSION": str(plan.is_admission_on).lower(),
            "PENSTOCK_SLO_INTERACTIVE_FIRST_TOKEN_MS": str(objective_ms),
            "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": "0.01",
            "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
        },
    )
