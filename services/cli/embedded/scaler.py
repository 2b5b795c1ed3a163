"""Gives a pool of the embedded stack the workers that the supervisor wants: starts processes, drains processes.

The policy is the supervisor's; here is only the difference between what is wanted and what runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from services.cli.embedded.plan import PoolPlan
from services.cli.embedded.stack import WORKER_GRACE_SECONDS, EmbeddedStack

INTERVAL_SECONDS = 1.0


async def keep_scaled(stack: EmbeddedStack, pool: str, stop: asyncio.Event, *, report: Callable[[str], None]) -> None:
    """Until `stop` is set. A supervisor that does not answer changes nothing; during a rollout nothing is scaled."""
    async with httpx.AsyncClient(base_url=stack.supervisor_url, timeout=2.0) as client:
        while not stop.is_set():
            async with stack.changing:
                desired = None if stop.is_set() else await desired_workers(client, pool)
                if desired is not None:
                    await scale_to(stack, stack.pools[pool], desired, report=report)
            try:
                await asyncio.wait_for(stop.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue


async def desired_workers(client: httpx.AsyncClient, pool: str) -> int | None:
    """None: the supervisor is away, or has not decided yet."""
    try:
        response = await client.get(f"/scaling/{pool}")
        return int(response.json()["desired_workers"]) if response.is_success else None
    except (httpx.HTTPError, ValueError, KeyError):
        return None


async def scale_to(stack: EmbeddedStack, pool: PoolPlan, desired: int, *, report: Callable[[str], None]) -> None:
    """The newest go first: they have held their partitions for the shortest time."""
    running = stack.workers_of(pool.name)
    stack.surplus[pool.name] = 0
    for _ in range(len(running), desired):
        service = stack.start_worker(pool)
        report(f"scaled up to {desired}: {service.name} starts")
    for service in reversed(running[desired:]):
        report(f"scaled down to {desired}: {service.name} drains")
        await stack.stop_service(service, grace_seconds=WORKER_GRACE_SECONDS)
