"""What telemetry costs: two stacks side by side, one exporting every trace's spans, one none, loaded in turns.

Processor time of our services per request, the turns' ratio by ratio: neighbours on the machine disturb both alike.
The model is a hash, so nothing hides the cost: with a real one the share is smaller. Metrics and logs are on in both.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.http_load import chat_body, closed_loop
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

MODEL = "null"
MOST_PER_CENT = 5.0
OFF = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryLoad:
    """`sample_ratio` is the share of traces kept by the stack that exports."""

    rounds: int = 8
    seconds: float = 4.0
    concurrency: int = 8
    tokens: int = 64
    sample_ratio: float = 1.0


async def measure_telemetry(load: TelemetryLoad, *, report: Callable[[str], None]) -> list[Figure]:
    async with AsyncExitStack() as exits:
        stacks = []
        for ratio in (load.sample_ratio, OFF):
            directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
            stacks.append(await exits.enter_async_context(EmbeddedStack(_plan(directory, ratio), report=report)))
        for stack in stacks:
            await stack.wait_until_ready()
            await _round(stack, load)  # the first requests of a cold Kafka are dear
        costs: list[tuple[float, float]] = []
        for number in range(load.rounds):
            report(f"round {number + 1} of {load.rounds}")
            first, second = stacks if number % 2 else reversed(stacks)
            found = {id(stack): await _round(stack, load) for stack in (first, second)}
            costs.append((found[id(stacks[0])], found[id(stacks[1])]))
    return figures_of(costs)


def figures_of(costs: list[tuple[float, float]]) -> list[Figure]:
    """From each round's milliseconds a request, with telemetry and without."""
    shares = sorted(100 * (on / off - 1) for on, off in costs)
    return [
        Figure(name="cpu_ms_per_request_with", value=statistics.median(on for on, _ in costs), unit="ms"),
        Figure(name="cpu_ms_per_request_without", value=statistics.median(off for _, off in costs), unit="ms"),
        Figure(name="overhead", value=statistics.median(shares), unit="%", goal=MOST_PER_CENT),
        Figure(name="overhead_least_round", value=shares[0], unit="%"),
        Figure(name="overhead_most_round", value=shares[-1], unit="%"),
    ]


def _plan(directory: Path, ratio: float) -> StackPlan:
    return StackPlan(
        data_dir=directory,
        pools=(PoolPlan(workers=1, served_model_name=MODEL),),
        environment={
            "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": str(ratio),
            "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
        },
    )


async def _round(stack: EmbeddedStack, load: TelemetryLoad) -> float:
    """Milliseconds of processor time of our services per request."""
    body = partial(chat_body, model=MODEL, max_tokens=load.tokens, stream=True)
    before = _processor_seconds(stack)
    tally, _ = await closed_loop(stack.http_url, body, seconds=load.seconds, concurrency=load.concurrency)
    if tally.errors or not tally.requests:
        raise CommandFailed(f"requests failed, the first with {tally.errors[:1]}")
    return 1_000 * (_processor_seconds(stack) - before) / tally.requests


def _processor_seconds(stack: EmbeddedStack) -> float:
    """Of gateways, workers with their engines, and supervisors; not of who keeps the spans."""
    used = 0.0
    for service in stack.services:
        if service.pid is not None:
            process = psutil.Process(service.pid)
            for each in (process, *process.children(recursive=True)):
                times = each.cpu_times()
                used += times.user + times.system
    return used
