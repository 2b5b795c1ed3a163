"""One worker of three is killed whenever it has been ready for three seconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.open_loop import open_loop
from services.cli.benchmarks.scenarios.scenario import (
    TOKENS,
    Report,
    Scenario,
    answer_seconds,
    body,
    count_events,
    fleet,
    lost,
    refused,
    scenario_stack,
)
from services.cli.embedded.stack import EmbeddedStack

_STEP_MS = (30.0, 30.0, 30.0)
_NAME = "default-2"
_EVERY_SECONDS = 3.0
_DEATHS = 5
_PER_SECOND = 6.0
_SECONDS = 60.0
_PAUSE_SECONDS = 4.0
"""Of a stream whose worker is killed: its lease, the hand-over, and a second on a busy machine."""


async def run(report: Report) -> list[Figure]:
    async with scenario_stack(_STEP_MS) as stack:
        report(f"{_PER_SECOND:.0f} requests/s; {_NAME} is killed every {_EVERY_SECONDS:.0f} s")
        flapping = asyncio.create_task(_flap(stack))
        samples = await open_loop(stack.http_url, body, per_second=_PER_SECOND, seconds=_SECONDS, seed=1)
        num_deaths, breakers = await flapping
        view = await fleet(stack)
    own_seconds = TOKENS * _STEP_MS[0] / 1_000
    opened = breakers + count_events(view, "breaker-changed", "breaker of the worker: closed to open")
    return [
        Figure(name="requests", value=len(samples), unit=""),
        Figure(name="killed", value=num_deaths, unit="times", goal=_DEATHS, at_most=False),
        Figure(name="lost", value=lost(samples), unit="requests", goal=0),
        Figure(name="refused", value=refused(samples), unit="requests", goal=0),
        Figure(name="answer_p50", value=answer_seconds(samples, 0.5), unit="s", goal=2 * own_seconds),
        Figure(name="answer_max", value=answer_seconds(samples, 1.0), unit="s", goal=own_seconds + 2 * _PAUSE_SECONDS),
        Figure(name="its_breaker_opened", value=min(1, opened), unit="", goal=1, at_most=False),
    ]


async def _flap(stack: EmbeddedStack) -> tuple[int, int]:
    """How often it was killed, and whether its breaker was seen open."""
    worker, num_deaths, breakers, began = stack.service(f"worker-{_NAME}"), 0, 0, time.monotonic()
    while time.monotonic() - began < _SECONDS:
        await asyncio.sleep(0.2)
        members = {member["worker_id"]: member for member in (await fleet(stack))["workers"]}
        member = members.get(_NAME)
        breakers += member is not None and member["breaker"] == "open"
        is_up = member is not None and member["state"] == "ready" and member["age_seconds"] < 1
        if is_up and member is not None and member["joined_seconds_ago"] >= _EVERY_SECONDS and worker.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            num_deaths += 1
    return num_deaths, min(1, breakers)


SCENARIO = Scenario(
    name="flapping-worker",
    picture="its streams go on elsewhere after a pause, nothing is lost or refused, its breaker opens",
    run=run,
)
