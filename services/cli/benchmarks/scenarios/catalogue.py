"""The scripted scenarios, by name."""

from __future__ import annotations

from services.cli.benchmarks.scenarios import flapping_worker, retry_storm, slow_redis, slow_worker, tenant_flood

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        retry_storm.SCENARIO,
        tenant_flood.SCENARIO,
        slow_worker.SCENARIO,
        slow_redis.SCENARIO,
        flapping_worker.SCENARIO,
    )
}
