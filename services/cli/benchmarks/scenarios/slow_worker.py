"""Three workers, one of them at a tenth of the others' speed."""

from __future__ import annotations

import asyncio
import time

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.open_loop import open_loop
from services.cli.benchmarks.scenarios.scenario import (
    TOKENS,
    Report,
    Scenario,
    answer_seconds,
    body,
    fleet,
    lost,
    requests_per_second,
    scenario_stack,
)
from services.cli.embedded.stack import EmbeddedStack

_FAST_MS, _SLOW_MS = 20.0, 200.0
_SLOW = "default-2"
_SECONDS = 30.0
_LATEST_SECONDS = 15.0


async def run(report: Report) -> list[Figure]:
    # Round robin, so that routing does not hide the slow one from its share of the load.
    environment = {"PENSTOCK_GATEWAY_ROUTING": "round-robin"}
    async with scenario_stack((_FAST_MS, _FAST_MS, _SLOW_MS), environment=environment) as stack:
        rate = requests_per_second(_FAST_MS)
        report(f"{rate:.1f} requests/s, half of what the two fast ones can do, to all three in turn")
        watch = asyncio.create_task(_quarantined_after(stack))
        samples = await open_loop(stack.http_url, body, per_second=rate, seconds=_SECONDS, seed=1)
        quarantined_after = await watch
    out_at = quarantined_after + 1.0
    before = [sample for sample in samples if sample.asked_at < quarantined_after]
    after = [sample for sample in samples if sample.asked_at > out_at]
    own_seconds = TOKENS * _FAST_MS / 1_000
    return [
        Figure(name="requests", value=len(samples), unit=""),
        Figure(name="quarantined_after", value=quarantined_after, unit="s", goal=_LATEST_SECONDS),
        Figure(name="answer_p99_before", value=answer_seconds(before, 0.99), unit="s"),
        Figure(name="answer_p99_afterwards", value=answer_seconds(after, 0.99), unit="s", goal=3 * own_seconds),
        Figure(name="lost", value=lost(samples), unit="requests", goal=0),
    ]


async def _quarantined_after(stack: EmbeddedStack) -> float:
    """Seconds; as long as the load runs when it never happened."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < _SECONDS:
        standings = {worker["worker_id"]: worker["standing"] for worker in (await fleet(stack))["workers"]}
        if standings.get(_SLOW) == "quarantined":
            return now
        await asyncio.sleep(0.2)
    return now


SCENARIO = Scenario(
    name="slow-worker",
    picture="the slow worker is quarantined within 15 s, and from then on answers take what a fast worker needs",
    run=run,
)
