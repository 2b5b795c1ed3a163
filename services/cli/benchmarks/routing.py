"""The routing policies on unequal workers: one three times as slow, callers that share system prompts.

Everything is real but the model: the null engine takes a fixed time per step, a fixed time per prompt token that it has
not cached, and remembers as many prompts as fit. A fresh stack for each policy, the same arrivals and prompts.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from services.cli.benchmarks.goals import Figure, percentile
from services.cli.benchmarks.open_loop import Sample, open_loop
from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack

MODEL = "null"
POLICIES = ("round-robin", "least-tokens", "weighted", "adaptive", "affinity")
LEAST_P99_GAIN = 0.30
AFFINITY_P99_SLACK = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingLoad:
    """With the defaults the pool can do some 47 requests a second, prompts not cached; 60 % of that is offered."""

    seconds: float = 30.0
    warm_up_seconds: float = 6.0
    per_second: float = 28.0
    max_tokens: int = 32
    step_ms: tuple[float, ...] = (10.0, 10.0, 30.0)
    slots: int = 8
    prompts: int = 24
    prompt_characters: int = 1_500
    prefill_ms_per_token: float = 0.02
    cached_prompts: int = 10

    def body(self, number: int) -> bytes:
        """The n-th request: one of the shared system prompts, a question of its own."""
        prompt = random.Random(number).randrange(self.prompts)
        instructions = (f"You are assistant number {prompt:02}. " * self.prompt_characters)[: self.prompt_characters]
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": f"question {number}"}]
        return json.dumps(
            {"model": MODEL, "messages": messages, "max_tokens": self.max_tokens, "ignore_eos": True}
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingResult:
    """What callers of one policy saw. `hit_rate`: prompt tokens that were cached."""

    policy: str
    requests: int
    p50_seconds: float
    p99_seconds: float
    hit_rate: float


async def measure_routing(
    load: RoutingLoad,
    policies: tuple[str, ...],
    *,
    report: Callable[[str], None],
    measured: Callable[[RoutingResult], None] = lambda result: None,
) -> list[RoutingResult]:
    """`measured` is told of each policy as soon as it is known."""
    results = []
    for policy in policies:
        results.append(await _measure(load, policy, report))
        measured(results[-1])
    return results


async def _measure(load: RoutingLoad, policy: str, report: Callable[[str], None]) -> RoutingResult:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as directory:
        async with EmbeddedStack(_plan(load, policy, Path(directory))) as stack:
            report(f"{policy}: starting")
            await stack.wait_until_ready()
            report(f"{policy}: warming up")
            await open_loop(stack.http_url, load.body, per_second=load.per_second, seconds=load.warm_up_seconds, seed=1)
            report(f"{policy}: {load.per_second:.0f} requests/s for {load.seconds:.0f} s")
            samples = await open_loop(
                stack.http_url, load.body, per_second=load.per_second, seconds=load.seconds, seed=2
            )
    return result_of(policy, samples)


def result_of(policy: str, samples: list[Sample]) -> RoutingResult:
    """Raises `CommandFailed` when anything was not answered: a policy that loses requests has no latency."""
    failed = [sample for sample in samples if not sample.is_answered]
    if failed or not samples:
        raise CommandFailed(f"{policy}: {len(failed)} of {len(samples)} requests failed")
    usages = [json.loads(sample.body)["usage"] for sample in samples]
    cached = sum(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0) for usage in usages)
    times = [sample.seconds for sample in samples]
    return RoutingResult(
        policy=policy,
        requests=len(samples),
        p50_seconds=percentile(times, 0.5),
        p99_seconds=percentile(times, 0.99),
        hit_rate=cached / sum(usage["prompt_tokens"] for usage in usages),
    )


def figures_of(results: list[RoutingResult]) -> list[Figure]:
    """Every policy's numbers, and the goals where both sides of a comparison were measured."""
    by_policy = {result.policy: result for result in results}
    figures = [
        figure
        for result in results
        for figure in (
            Figure(name=f"{result.policy}_p50_ms", value=result.p50_seconds * 1e3, unit="ms"),
            Figure(name=f"{result.policy}_p99_ms", value=result.p99_seconds * 1e3, unit="ms"),
            Figure(name=f"{result.policy}_hit_rate", value=result.hit_rate, unit=""),
        )
    ]
    naive, adaptive, affine = (by_policy.get(name) for name in ("round-robin", "adaptive", "affinity"))
    if naive and adaptive:
        gain = 1 - adaptive.p99_seconds / naive.p99_seconds
        figures.append(Figure(name="adaptive_p99_gain", value=gain, unit="", goal=LEAST_P99_GAIN, at_most=False))
    if adaptive and affine:
        ratio = affine.p99_seconds / adaptive.p99_seconds
        figures.append(Figure(name="affinity_p99_over_adaptive", value=ratio, unit="x", goal=AFFINITY_P99_SLACK))
        more = affine.hit_rate / max(adaptive.hit_rate, 1e-9)
        figures.append(Figure(name="affinity_hits_over_adaptive", value=more, unit="x", goal=1.2, at_most=False))
    return figures


def routing_table(results: list[RoutingResult]) -> Table:
    table = Table(title="Routing on unequal workers", title_justify="left")
    table.add_column("policy")
    for column in ("requests", "p50", "p99", "prompt tokens cached"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result.policy,
            str(result.requests),
            f"{result.p50_seconds * 1e3:.0f} ms",
            f"{result.p99_seconds * 1e3:.0f} ms",
            f"{result.hit_rate:.0%}",
        )
    return table


def result_line(result: RoutingResult) -> str:
    """For whoever watches: one policy, as soon as it is known."""
    return (
        f"{result.policy}: {result.requests} requests, p50 {result.p50_seconds * 1e3:.0f} ms, "
        f"p99 {result.p99_seconds * 1e3:.0f} ms, {result.hit_rate:.0%} of prompt tokens cached"
    )


def _plan(load: RoutingLoad, policy: str, directory: Path) -> StackPlan:
    blocks = load.cached_prompts * load.prompt_characters // 16
    workers = PoolPlan(
        workers=len(load.step_ms),
        served_model_name=MODEL,
        environment={
            "PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(load.slots),
            "PENSTOCK_WORKER_NULL_PREFILL_MS_PER_TOKEN": str(load.prefill_ms_per_token),
            "PENSTOCK_WORKER_NULL_PREFIX_CACHE_BLOCKS": str(blocks),
        },
        worker_environments=tuple({"PENSTOCK_WORKER_NULL_STEP_MS": str(step_ms)} for step_ms in load.step_ms),
    )
    return StackPlan(
        data_dir=directory,
        pools=(workers,),
        environment={
            "PENSTOCK_GATEWAY_ROUTING": policy,
            "PENSTOCK_GATEWAY_ADMISSION": "false",
            # It would take the slow worker away after 5 s, and with it what the policies differ in.
            "PENSTOCK_SUPERVISOR_QUARANTINE": "false",
            "PENSTOCK_TELEMETRY_TRACE_SAMPLE_RATIO": "0.01",
            "PENSTOCK_TELEMETRY_LOG_LEVEL": "WARNING",
        },
    )
