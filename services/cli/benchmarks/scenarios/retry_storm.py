"""Everybody at once, again and again: ten seconds of work arrive in one moment, and every caller obeys Retry-After."""

from __future__ import annotations

import asyncio
import time

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.open_loop import Callers, Sample, open_loop
from services.cli.benchmarks.scenarios.scenario import (
    FIRST_TOKEN_SECONDS,
    Report,
    Scenario,
    answers_per_second,
    body,
    first_token_seconds,
    is_whole,
    refused,
    requests_per_second,
    scenario_stack,
)

_STEP_MS = (30.0, 30.0)
_LEARN_SECONDS = 8.0
_WORK_SECONDS = 10.0
_PATIENCE_SECONDS = 60.0
_CALM_SECONDS = 5.0


async def run(report: Report) -> list[Figure]:
    rate = 1.5 * sum(map(requests_per_second, _STEP_MS))
    async with scenario_stack(_STEP_MS) as stack:
        report("learning the pool's speed")
        learnt = await open_loop(stack.http_url, body, per_second=rate, seconds=_LEARN_SECONDS, seed=1)
        capacity = answers_per_second(learnt, _LEARN_SECONDS)
        number = round(_WORK_SECONDS * capacity)
        report(f"{number} callers at once, for {capacity:.1f} requests/s")
        callers = Callers(stack.http_url, patience_seconds=_PATIENCE_SECONDS)
        began_at = time.perf_counter()
        asked = await asyncio.gather(*(_until_answered(callers, index, began_at) for index in range(number)))
        took = time.perf_counter() - began_at
        callers.close()
        report("half the capacity, right afterwards")
        calm = await open_loop(stack.http_url, body, per_second=capacity / 2, seconds=_CALM_SECONDS, seed=2)
    last = [samples[-1] for samples in asked]
    return [
        Figure(name="callers", value=number, unit=""),
        Figure(name="not_served", value=sum(not is_whole(sample) for sample in last), unit="requests", goal=0),
        Figure(name="asks_of_the_most_patient", value=max(map(len, asked)), unit="asks", goal=6),
        Figure(name="all_served_after", value=took, unit="s", goal=1.6 * _WORK_SECONDS),
        Figure(
            name="admitted_first_token_p99", value=first_token_seconds(last, 0.99), unit="s", goal=FIRST_TOKEN_SECONDS
        ),
        Figure(name="refused_afterwards", value=refused(calm), unit="requests", goal=0),
    ]


async def _until_answered(callers: Callers, index: int, began_at: float) -> list[Sample]:
    """Asks when it is told to, as OpenAI's client does; gives up after a minute."""
    samples: list[Sample] = []
    while time.perf_counter() - began_at < _PATIENCE_SECONDS:
        samples.append(await callers.ask(body(index), began_at=began_at))
        wait = samples[-1].retry_after_seconds
        if wait is None:
            break
        await asyncio.sleep(wait)
    return samples


SCENARIO = Scenario(
    name="retry-storm",
    picture="everybody is served within 1.6 times the work, nobody asks more than six times, none waits once admitted",
    run=run,
)
