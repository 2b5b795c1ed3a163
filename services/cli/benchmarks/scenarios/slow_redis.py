"""Redis answers 200 ms later than it should, for a while: slow is not dead."""

from __future__ import annotations

import asyncio

from services.cli.benchmarks.goals import Figure
from services.cli.benchmarks.open_loop import Sample, open_loop
from services.cli.benchmarks.scenarios.delaying_proxy import DelayingProxy
from services.cli.benchmarks.scenarios.scenario import (
    Report,
    Scenario,
    body,
    count_events,
    first_token_seconds,
    fleet,
    lost,
    refused,
    scenario_stack,
)
from services.cli.embedded.ports import free_port
from services.cli.embedded.redis import EmbeddedRedis

_STEP_MS = (10.0, 10.0)
_DELAY_SECONDS = 0.2
_PER_SECOND = 5.0
_PHASES = (("before", 8.0), ("slow", 20.0), ("after", 10.0))
_SETTLE_SECONDS = 2.0
_ROUND_TRIPS = 6
"""Most of them before a first token: register, subscribe, claim, append, each perhaps behind another's exchange."""


async def run(report: Report) -> list[Figure]:
    async with (
        EmbeddedRedis(port=free_port()) as server,
        DelayingProxy(server.port) as proxy,
        scenario_stack(_STEP_MS, redis=f"redis://127.0.0.1:{proxy.port}/0") as stack,
    ):
        await open_loop(stack.http_url, body, per_second=_PER_SECOND, seconds=3.0, seed=1)
        found: dict[str, list[Sample]] = {}
        for name, seconds in _PHASES:
            proxy.delay_seconds = _DELAY_SECONDS if name == "slow" else 0.0
            report(f"Redis {'200 ms late' if name == 'slow' else 'as it should be'}, {seconds:.0f} s")
            found[name] = await open_loop(stack.http_url, body, per_second=_PER_SECOND, seconds=seconds, seed=2)
            await asyncio.sleep(_SETTLE_SECONDS)
        view = await fleet(stack)
    everybody = [sample for samples in found.values() for sample in samples]
    p50s = {name: first_token_seconds(samples, 0.5) for name, samples in found.items()}
    calm = max(p50s["before"], 0.02)
    return [
        Figure(name="requests", value=len(everybody), unit=""),
        Figure(name="first_token_p50_before", value=p50s["before"], unit="s"),
        Figure(name="first_token_p50_slow", value=p50s["slow"], unit="s", goal=calm + _ROUND_TRIPS * _DELAY_SECONDS),
        Figure(name="first_token_p50_after", value=p50s["after"], unit="s", goal=2 * calm),
        Figure(name="refused", value=refused(everybody), unit="requests", goal=0),
        Figure(name="lost", value=lost(everybody), unit="requests", goal=0),
        Figure(name="workers_declared_lost", value=count_events(view, "worker-lost"), unit="", goal=0),
    ]


SCENARIO = Scenario(
    name="slow-redis",
    picture="first tokens come a few round trips later, then as before; nothing is lost, nobody is taken for dead",
    run=run,
)
