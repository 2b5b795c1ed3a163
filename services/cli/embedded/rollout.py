"""Other weights for a pool that is in use: worker by worker, and no stream changes weights on the way.

    for each worker with the old weights, the oldest first:
        start one with the new ones        it joins and takes new requests; the pool is never smaller than it was
        quarantine the old one             it takes nothing new, and finishes what it has with its own weights
        when it has nothing left: stop it  its partitions move

Nothing is handed from old weights to new ones: a stream that one engine began contradicts another's tokens (the
ledger answers such a claim `foreign`). What goes wrong ends the rollout where it stands; the same one again goes on.
Refuses to know where orders come from and how models are resolved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from services.cli.console import CommandFailed
from services.cli.embedded.plan import PoolPlan
from services.cli.embedded.service_process import ServiceProcess, ServiceState
from services.cli.embedded.stack import WORKER_GRACE_SECONDS, EmbeddedStack

QUARANTINE, RESUME = "quarantine", "resume"
_POLL_SECONDS = 0.2
_MOST_FALSE_STARTS = 2
_IDLE_HEARTBEATS = 2
"""A worker is idle when so many of its heartbeats in a row say so: one poll may have been under way at the first."""

Order = Callable[[str, str], Awaitable[None]]
"""An order about a worker to the supervisor that leads. Raises CommandFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """`pool`: what its workers are started with from now on. `patience_seconds`: for each step of each worker."""

    pool: PoolPlan
    patience_seconds: float = 900.0


async def roll_out(stack: EmbeddedStack, rollout: Rollout, order: Order, *, report: Callable[[str], None]) -> int:
    """Replace the pool's workers; how many were replaced. Raises CommandFailed, then the rest keeps its weights."""
    target = rollout.pool
    async with stack.changing, httpx.AsyncClient(base_url=stack.supervisor_url, timeout=5.0) as client:
        steps = _Steps(stack, rollout, order, client, report)
        old = [worker for worker in stack.workers_of(target.name) if stack.plan_of(worker) != target]
        for number, worker in enumerate(old):
            try:
                await steps.replace(worker)
            except CommandFailed as failure:
                raise CommandFailed(
                    f"{failure.message}; {number} of {len(old)} workers were replaced, the others keep their weights",
                    hint=failure.hint,
                ) from None
        stack.pools[target.name] = target
        return len(old)


class _Steps:
    def __init__(
        self,
        stack: EmbeddedStack,
        rollout: Rollout,
        order: Order,
        client: httpx.AsyncClient,
        report: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._rollout = rollout
        self._order = order
        self._client = client
        self._report = report

    async def replace(self, worker: ServiceProcess) -> None:
        """Raises CommandFailed; then `worker` serves on, perhaps beside its successor."""
        stack, pool = self._stack, self._rollout.pool.name
        began = time.monotonic()
        if not stack.surplus[pool]:
            successor = await self._start_successor()
            stack.surplus[pool] += 1
            self._report(f"{_name(successor)} is ready after {time.monotonic() - began:.1f} s")
        self._report(f"{_name(worker)} finishes what it has")
        began = time.monotonic()
        num_streams = await self._finish(worker)
        await stack.stop_service(worker, grace_seconds=WORKER_GRACE_SECONDS)
        stack.surplus[pool] -= 1
        seconds = time.monotonic() - began
        self._report(f"{_name(worker)} has left after {seconds:.1f} s; {num_streams} streams ended with its weights")

    async def _start_successor(self) -> ServiceProcess:
        """One with the new weights, ready and in the group. What does not get there is stopped again."""
        successor = self._stack.start_worker(self._rollout.pool, is_candidate=True)
        self._report(f"{_name(successor)} starts with {_weights(self._rollout.pool)}")
        try:
            await self._until(f"{_name(successor)} is not ready", lambda: self._is_serving(successor))
        except BaseException:
            await self._stack.stop_service(successor, grace_seconds=WORKER_GRACE_SECONDS)
            raise
        self._stack.candidates.discard(successor)
        return successor

    async def _is_serving(self, successor: ServiceProcess) -> bool:
        """Raises CommandFailed for one that will never be."""
        if successor.state is ServiceState.REFUSED or successor.restarts >= _MOST_FALSE_STARTS:
            raise CommandFailed(
                f"{_name(successor)} does not start: {successor.last_log_lines(1)}",
                hint=f"its log is {successor.log_file}",
            )
        workers = await self._fleet()
        found = workers.get(_name(successor))
        if found is None or found["state"] != "ready":
            return False
        mates = [mate for mate in workers.values() if mate["pool"] == found["pool"] and mate["state"] == "ready"]
        num_partitions = sum(len(mate["partitions"]) for mate in mates)
        return bool(found["partitions"]) or len(mates) > num_partitions > 0

    async def _finish(self, worker: ServiceProcess) -> int:
        """Until it has nothing in hand; how many requests it still had. Who does not get there is let work again."""
        name = _name(worker)
        await self._order(name, QUARANTINE)
        watch = _IdleWatch()
        try:
            await self._until(f"{name} still works on requests", lambda: self._is_idle(name, watch))
        except BaseException:
            await self._order(name, RESUME)
            raise
        return watch.most_in_hand

    async def _is_idle(self, name: str, watch: _IdleWatch) -> bool:
        found = (await self._fleet()).get(name)
        if found is None or found["state"] in ("stopped", "lost"):
            return False  # it died and is started again, with the weights it had
        if not found["is_quarantined"]:
            # Not heard of it yet, a new life, or a new supervisor that knows nothing of it and let it go.
            if watch.looks_free():
                await self._order(name, QUARANTINE)
            return False
        return watch.is_idle(found)

    async def _until(self, trouble: str, is_done: Callable[[], Awaitable[bool]]) -> None:
        give_up_at = time.monotonic() + self._rollout.patience_seconds
        while not await is_done():
            if time.monotonic() > give_up_at:
                raise CommandFailed(
                    f"{trouble} after {self._rollout.patience_seconds:.0f} s",
                    hint="the same rollout again goes on where this one stopped",
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _fleet(self) -> dict[str, dict[str, Any]]:
        """Empty while no supervisor answers."""
        try:
            response = await self._client.get("/fleet")
            return {worker["worker_id"]: worker for worker in response.json()["workers"]}
        except (httpx.HTTPError, ValueError, KeyError):
            return {}


class _IdleWatch:
    """What the heartbeats of a worker in quarantine say, one after the other."""

    def __init__(self) -> None:
        self.most_in_hand = 0
        self._idle: set[tuple[str, int]] = set()
        self._free_looks = 0

    def is_idle(self, worker: dict[str, Any]) -> bool:
        in_hand = worker["running_requests"] + worker["waiting_requests"]
        self.most_in_hand = max(self.most_in_hand, in_hand)
        self._free_looks = 0
        if in_hand:
            self._idle.clear()
        else:
            self._idle.add((worker["incarnation"], worker["sequence_number"]))
        return len(self._idle) >= _IDLE_HEARTBEATS

    def looks_free(self) -> bool:
        """True every few seconds: the order went astray and should be given again."""
        self._idle.clear()
        self._free_looks += 1
        return self._free_looks % round(4.0 / _POLL_SECONDS) == 0


def _name(worker: ServiceProcess) -> str:
    """As the fleet knows it."""
    return worker.name.removeprefix("worker-")


def _weights(pool: PoolPlan) -> str:
    kept = [pool.dtype, *([] if pool.quantization == "none" else [pool.quantization])]
    cache = "" if pool.kv_cache == "16bit" else f", KV cache {pool.kv_cache}"
    return f"{pool.model or 'no model'} ({', '.join(kept)}{cache})"
