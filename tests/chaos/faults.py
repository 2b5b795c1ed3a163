"""Carries a fault out on the processes of the stack. Knows process ids and signals, nothing of requests."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.cli.embedded.kafka import EmbeddedKafka, EmbeddedKafkaFailed
from services.cli.embedded.redis import EmbeddedRedis
from services.cli.embedded.service_process import ServiceProcess
from services.cli.embedded.stack import EmbeddedStack
from tests.chaos.schedule import KAFKA_FAULTS, REDIS_FAULTS, Fault

_FREEZE_WORKER_SECONDS = 5.0
_STARVED_SECONDS = 3.0
_MACHINE_GONE_SECONDS = 14.0
_FREEZE_KAFKA_SECONDS = 4.0
_FREEZE_KAFKA_LONG_SECONDS = 20.0
_FREEZE_REDIS_SECONDS = 2.0
_KAFKA_AWAY_SECONDS = 1.0
_KAFKA_START_SECONDS = 60.0
_KAFKA_STARTS = 6
_VISIT_SECONDS = 8.0
_CLOCK_OFF_SECONDS = 8.0
_HOUR = 3_600
_ALIVE_WITHIN_SECONDS = 60.0
"""Where a machine is gone twice at once, every gateway is frozen for a while: longer than that, and slack."""


@dataclass(slots=True)
class Injection:
    """One fault that struck. `num_in_flight` requests were accepted and not answered when it did."""

    fault: Fault
    started_at: float
    ended_at: float
    num_in_flight: int
    victim: str = ""


class Saboteur:
    def __init__(
        self,
        stack: EmbeddedStack,
        kafka: EmbeddedKafka,
        redis: EmbeddedRedis,
        rng: random.Random,
        *,
        redis_directory: Path,
        count_in_flight: Callable[[], int],
        clock_shim: Path | None = None,
    ) -> None:
        self._stack = stack
        self._kafka = kafka
        self._redis = redis
        self._rng = rng
        self._redis_directory = redis_directory
        self._count_in_flight = count_in_flight
        self._clock_shim = clock_shim
        self._kafka_lock = asyncio.Lock()
        self._redis_lock = asyncio.Lock()
        self._locks = ((KAFKA_FAULTS, self._kafka_lock), (REDIS_FAULTS, self._redis_lock))
        self._frozen: set[str] = set()
        self._visitors: set[ServiceProcess] = set()
        self.injections: list[Injection] = []
        self.num_dropped = 0
        self._acts: dict[Fault, Callable[[], Awaitable[str]]] = {
            Fault.KILL_WORKER: self._kill_worker,
            Fault.KILL_ENGINE: self._kill_engine,
            Fault.KILL_GATEWAY: lambda: self._kill("gateway"),
            Fault.KILL_SUPERVISOR: lambda: self._kill("supervisor"),
            Fault.KILL_BOTH_SUPERVISORS: self._kill_both_supervisors,
            Fault.HANG_ENGINE: self._hang_engine,
            Fault.FREEZE_WORKER: self._freeze_worker,
            Fault.ENGINE_OUT_OF_MEMORY: self._starve_engine,
            Fault.MACHINE_GONE: self._machine_gone,
            Fault.DRAIN_WORKER: self._drain_worker,
            Fault.JOIN_AND_LEAVE: self._join_and_leave,
            Fault.FREEZE_KAFKA: lambda: self._freeze_kafka(_FREEZE_KAFKA_SECONDS),
            Fault.FREEZE_KAFKA_LONG: lambda: self._freeze_kafka(_FREEZE_KAFKA_LONG_SECONDS),
            Fault.RESTART_KAFKA: self._restart_kafka,
            Fault.FREEZE_REDIS: self._freeze_redis,
            Fault.RESTART_REDIS: self._restart_redis,
            Fault.RESTART_BOTH: self._restart_both,
            Fault.EMPTY_REDIS: self._empty_redis,
            Fault.CLOCK_OFF: self._clock_off,
        }

    @property
    def can_shift_clocks(self) -> bool:
        return self._clock_shim is not None

    async def strike(self, fault: Fault) -> Injection | None:
        """None when its victim is down already: a Kafka that is always away lets no work in that could be lost."""
        locks = [lock for faults, lock in self._locks if fault in faults]
        if any(lock.locked() for lock in locks):
            self.num_dropped += 1
            return None
        injection = Injection(fault, time.monotonic(), 0.0, self._count_in_flight())
        injection.victim = await self._acts[fault]()
        injection.ended_at = time.monotonic()
        self.injections.append(injection)
        return injection

    # ------------------------------------------------------------------ victims

    async def _victim(self, kind: str) -> tuple[ServiceProcess, int]:
        """A living process of this kind; waits for one when all are being started again."""
        give_up_at = time.monotonic() + _ALIVE_WITHIN_SECONDS
        while time.monotonic() < give_up_at:
            alive = [
                (service, service.pid)
                for service in self._stack.services
                if service.name.startswith(kind) and service.pid is not None and service.name not in self._frozen
                if service not in self._visitors
            ]
            if alive:
                return self._rng.choice(alive)
            await asyncio.sleep(0.05)
        raise RuntimeError(f"no {kind} came back within {_ALIVE_WITHIN_SECONDS} s")

    async def _signal(self, kind: str, number: signal.Signals) -> str:
        service, pid = await self._victim(kind)
        _send(pid, number)
        return service.name

    async def _kill(self, kind: str) -> str:
        return await self._signal(kind, signal.SIGKILL)

    # ------------------------------------------------------------------ workers

    async def _kill_worker(self) -> str:
        return await self._kill("worker")

    async def _drain_worker(self) -> str:
        return await self._signal("worker", signal.SIGTERM)

    async def _kill_engine(self) -> str:
        service, pid = await self._victim("worker")
        for child in _engines_of(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return service.name

    async def _hang_engine(self) -> str:
        """Its watchdog has to notice, kill it and start another one: nobody continues it."""
        service, pid = await self._victim("worker")
        for child in _engines_of(pid):
            _send(child.pid, signal.SIGSTOP)
        return service.name

    async def _starve_engine(self) -> str:
        """Not a byte more than it has: the next allocation fails; if it lives on, it is killed, as Linux does."""
        service, pid = await self._victim("worker")
        for child in _engines_of(pid):
            with contextlib.suppress(psutil.Error):
                child.rlimit(psutil.RLIMIT_AS, (child.memory_info().vms, psutil.RLIM_INFINITY))
        engines = _engines_of(pid)
        await asyncio.sleep(_STARVED_SECONDS)
        for child in engines:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return service.name

    async def _machine_gone(self) -> str:
        """A worker, a gateway and a supervisor fall silent together and never come back: no connection of theirs is
        closed, nobody is told. After Kafka's session timeout they are removed, and others started in their place."""
        gone = [await self._victim(kind) for kind in ("worker", "gateway", "supervisor")]
        pids = [pid for _, pid in gone] + [child.pid for child in _engines_of(gone[0][1])]
        names = {service.name for service, _ in gone}
        self._frozen |= names
        try:
            for pid in pids:
                _send(pid, signal.SIGSTOP)
            await asyncio.sleep(_MACHINE_GONE_SECONDS)
        finally:
            for pid in pids:
                _send(pid, signal.SIGKILL)
            self._frozen -= names
        return ", ".join(sorted(names))

    async def _freeze_worker(self) -> str:
        """The shell only: its engine goes on until the socket is full, as a stalled host may do."""
        service, pid = await self._victim("worker")
        self._frozen.add(service.name)
        try:
            _send(pid, signal.SIGSTOP)
            await asyncio.sleep(_FREEZE_WORKER_SECONDS)
        finally:
            _send(pid, signal.SIGCONT)
            self._frozen.discard(service.name)
        return service.name

    async def _join_and_leave(self) -> str:
        visitor = self._stack.start_worker(self._stack.plan.pools[0])
        self._visitors.add(visitor)
        await asyncio.sleep(_VISIT_SECONDS)
        await self._stack.stop_service(visitor, grace_seconds=30.0)
        self._visitors.discard(visitor)
        return visitor.name

    # ------------------------------------------------------------------ supervisors, Kafka, Redis

    async def _kill_both_supervisors(self) -> str:
        names = [service.name for service in self._stack.services if service.name.startswith("supervisor")]
        for service in self._stack.services:
            if service.name in names and service.pid is not None:
                _send(service.pid, signal.SIGKILL)
        return ", ".join(names)

    async def _clock_off(self) -> str:
        """One service lives for a while with a clock an hour ahead or behind, then with the right one again."""
        assert self._clock_shim is not None
        kind = self._rng.choice(("worker", "gateway", "supervisor"))
        service, pid = await self._victim(kind)
        offset = self._rng.choice((_HOUR, -_HOUR))
        skewed = {"LD_PRELOAD": str(self._clock_shim), "CHAOS_CLOCK_OFFSET_SECONDS": str(offset)}
        service._environment.update(skewed)
        _send(pid, signal.SIGKILL)
        await asyncio.sleep(_CLOCK_OFF_SECONDS)
        for name in skewed:
            service._environment.pop(name, None)
        if (pid_now := service.pid) is not None:
            _send(pid_now, signal.SIGKILL)
        return f"{service.name} {offset:+d} s"

    async def _freeze_kafka(self, seconds: float) -> str:
        async with self._kafka_lock:
            await _freeze(self._kafka.pid, seconds)
        return "kafka"

    async def _restart_kafka(self) -> str:
        async with self._kafka_lock:
            self._kafka.kill()
            await asyncio.sleep(_KAFKA_AWAY_SECONDS)
            await self._start_kafka()
        return "kafka"

    async def _start_kafka(self) -> None:
        """Killed in the middle of something and on busy cores it may take minutes; a run must not end with it."""
        for _ in range(_KAFKA_STARTS - 1):
            try:
                await self._kafka.start_async(timeout_seconds=_KAFKA_START_SECONDS)
            except EmbeddedKafkaFailed:
                self._kafka.kill()
            else:
                return
        await self._kafka.start_async(timeout_seconds=_KAFKA_START_SECONDS)

    async def _freeze_redis(self) -> str:
        async with self._redis_lock:
            await _freeze(self._redis.process_id, _FREEZE_REDIS_SECONDS)
        return "redis"

    async def _restart_redis(self) -> str:
        async with self._redis_lock:
            self._redis.kill()
            await asyncio.sleep(0.5)
            self._redis.start()
        return "redis"

    async def _restart_both(self) -> str:
        async with self._kafka_lock, self._redis_lock:
            self._kafka.kill()
            self._redis.kill()
            await asyncio.sleep(_KAFKA_AWAY_SECONDS)
            self._redis.start()
            await self._start_kafka()
        return "kafka, redis"

    async def _empty_redis(self) -> str:
        async with self._redis_lock:
            self._redis.kill()
            shutil.rmtree(self._redis_directory / "appendonlydir")
            self._redis.start()
        return "redis"


async def _freeze(pid: int | None, seconds: float) -> None:
    assert pid is not None
    _send(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _engines_of(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children() if any("engine" in word for word in child.cmdline())]
    return []
