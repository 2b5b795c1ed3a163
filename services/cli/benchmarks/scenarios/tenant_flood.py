"""Two tenants: one asks for a quarter of the pool, the other for twenty times as much."""

from __future__ import annotations

import asyncio

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.open_loop import Sample, open_loop
from services.cli.benchmarks.scenarios.scenario import (
    FIRST_TOKEN_SECONDS,
    Report,
    Scenario,
    answers_per_second,
    body,
    first_token_seconds,
    is_whole,
    lost,
    requests_per_second,
    scenario_stack,
)
from services.cli.embedded.stack import EmbeddedStack

_STEP_MS = (30.0, 30.0)
_LEARN_SECONDS = 8.0
_SECONDS = 30.0
_TIMES = 20


async def run(report: Report) -> list[Figure]:
    rate = 0.75 * sum(map(requests_per_second, _STEP_MS))
    keys = {"PENSTOCK_GATEWAY_API_KEYS": "calm-key=calm,flood-key=flood"}
    async with scenario_stack(_STEP_MS, environment=keys) as stack:
        report("both tenants ask for the same, so that the pool's speed is known")
        learnt = await asyncio.gather(*(_ask(stack, key, rate, _LEARN_SECONDS, 1) for key in ("calm-key", "flood-key")))
        capacity = answers_per_second([sample for samples in learnt for sample in samples], _LEARN_SECONDS)
        calm_rate = capacity / 4
        report(f"one asks {calm_rate:.1f} times a second, the other {_TIMES * calm_rate:.0f} times")
        calm, flood = await asyncio.gather(
            _ask(stack, "calm-key", calm_rate, _SECONDS, 2), _ask(stack, "flood-key", _TIMES * calm_rate, _SECONDS, 3)
        )
    in_time = [sample for sample in calm if is_whole(sample) and (sample.first_seconds or 0) <= FIRST_TOKEN_SECONDS]
    answered = sum(map(is_whole, (*calm, *flood)))
    blamed = sum(sample.status == 429 for sample in flood)
    refusals = sum(sample.status in (429, 503) for sample in flood)
    share = answered / (capacity * _SECONDS)
    return [
        Figure(name="calm_asked", value=len(calm), unit=""),
        Figure(name="flood_asked", value=len(flood), unit=""),
        Figure(name="calm_answered_in_time", value=len(in_time) / len(calm), unit="", goal=0.95, at_most=False),
        Figure(name="calm_first_token_p99", value=first_token_seconds(calm, 0.99), unit="s", goal=FIRST_TOKEN_SECONDS),
        Figure(name="flood_refusals_that_blame_it", value=blamed / max(1, refusals), unit="", goal=0.9, at_most=False),
        Figure(name="answered_over_capacity", value=share, unit="", goal=0.85, at_most=False),
        Figure(name="lost", value=lost([*calm, *flood]), unit="requests", goal=0),
    ]


async def _ask(stack: EmbeddedStack, key: str, per_second: float, seconds: float, seed: int) -> list[Sample]:
    headers = f"authorization: Bearer {key}\r\n"
    return await open_loop(stack.http_url, body, per_second=per_second, seconds=seconds, seed=seed, headers=headers)


SCENARIO = Scenario(
    name="tenant-flood",
    picture="the calm tenant gets 95 % of what it asks for, in time; the flooding one is told why it does not",
    run=run,
)
