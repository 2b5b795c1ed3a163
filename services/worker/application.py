"""Wires one worker and lives its life: start, run, drain. The only module that knows all parts.

    async with build_worker(settings, kafka, redis) as worker:
        exit_status = await worker.run(stopping)

Order of a life: lease and heartbeats first, then the engine loads, then the group is joined: partitions are never
held by a worker that cannot work on them. The way down is `drain`.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

from services.worker.connections import Connections
from services.worker.engine_client import EngineHopeless
from services.worker.engine_setup import engine_client, load_tokenizer, served_model_name
from services.worker.handing_on import HandingOn
from services.worker.health import HealthServer, Readiness
from services.worker.heartbeat import HeartbeatWriter, WorkerIdentity, WorkerLoad
from services.worker.kafka_archive import KafkaArchive
from services.worker.observations import Observations
from services.worker.recovery import Recovery
from services.worker.request_path import PathPorts, PathSettings, RequestPath
from services.worker.request_tasks import TaskSet
from services.worker.service_levels import ServiceLevels
from services.worker.settings import WorkerSettings
from shared.contracts.errors import EngineFailed, PlatformError
from shared.contracts.fleet import FleetCommand, FleetCommandKind, WorkerState
from shared.contracts.identifiers import WorkerId, new_incarnation
from shared.contracts.requests import Cancellation, Lane
from shared.ledger.ledger_clock import LedgerClock
from shared.messaging.admin import admin_client, cluster_id
from shared.messaging.dead_letter import DeadLetterLimit
from shared.resilience.clock import Clock, SystemClock
from shared.resilience.lifecycle import run_periodically, run_persistently
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.slo import SloSettings
from shared.telemetry.metrics import (
    CONSUMER_LAG,
    INTAKE_PAUSED,
    LAST_POLL_AGE,
    OLDEST_UNFINISHED_AGE,
    RECORDS_IN_FLIGHT,
)

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 0.1
_LAG_SECONDS = 1.0
_CONCLUDE_SECONDS = 5.0
_KAFKA_PATIENCE_SECONDS = 5.0
_MAX_UNFINISHED_SECONDS = 3_600.0
_RESULT_OVERHEAD_BYTES = 4_096


class Worker:
    """One incarnation. `run` once, inside the context."""

    def __init__(
        self, settings: WorkerSettings, kafka: KafkaSettings, redis: RedisSettings, *, clock: Clock, slo: SloSettings
    ) -> None:
        self.settings = settings
        self._kafka = kafka
        self._redis = redis
        self._clock = LedgerClock(clock)
        self.worker_id = WorkerId(settings.name or f"{settings.pool}-{socket.gethostname()}-{os.getpid()}")
        self.incarnation = new_incarnation(self.worker_id)
        self.model = served_model_name(settings)
        self.state = WorkerState.STARTING
        self.fatal: Exception | None = None
        self._stopping = asyncio.Event()
        self._tokenizer = load_tokenizer(settings)
        self._engine = engine_client(settings, self._tokenizer)
        self._connections = Connections(
            settings, kafka, redis, name=self.worker_id, incarnation=self.incarnation, clock=self._clock
        )
        self._source = self._connections.source
        self._handing_on = HandingOn(
            self._connections.ledger,
            self._connections.results,
            names=self._connections.names,
            pool=settings.pool,
            request_partitions=kafka.request_partitions,
            assignment=lambda: self._source.assignment,
        )
        self._observations = Observations(
            pool=settings.pool,
            group=self._connections.group,
            incarnation=self.incarnation,
            service_levels=ServiceLevels(slo),
        )
        self._lag: dict[str, int] = {}
        self._path: RequestPath | None = None
        self._recovery: Recovery | None = None
        self._heartbeats = HeartbeatWriter(self._identity(), self._source, self._load, self._clock.now_ms)
        self.health = HealthServer(settings.health_host, settings.health_port, self._readiness)

    def _identity(self) -> WorkerIdentity:
        names, pool = self._connections.names, self.settings.pool
        return WorkerIdentity(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            pool=self.settings.pool,
            models=(self.model,),
            announced_topics=frozenset({names.requests(pool, Lane.INTERACTIVE), names.resume(pool)}),
        )

    async def __aenter__(self) -> Self:
        self._connections.broker.on_command(self._obey)
        self._connections.broker.on_cancellation(self._write_cancellation)
        await self.health.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.__aexit__(kind, error, trace)
        await self.health.__aexit__(kind, error, trace)

    # ------------------------------------------------------------------ life

    async def run(self, stopping: asyncio.Event) -> int:
        """Until `stopping` is set, a command says drain, or the worker has to give up. The exit status."""
        self._stopping = stopping
        if not await self._kafka_or_stop():
            return 0
        await self._connections.__aenter__()
        cluster = self._kafka.cluster or await cluster_id(self._kafka)
        async with asyncio.TaskGroup() as group:
            background, requests = TaskSet(group), TaskSet(group)
            self._path = path = self._build_path(cluster, requests)
            self._recovery = self._build_recovery(path)
            background.create_task(run_persistently("recovery", self._recovery.run, clock=self._clock))
            # Before the first heartbeat: who sent later is the living one of two lives.
            with contextlib.suppress(PlatformError):
                await self._refresh_lease()
            self._repeat(background, "lease", self._redis.lease_refresh_ms / 1_000, self._refresh_lease)
            self._repeat(background, "heartbeat", self.settings.heartbeat_interval_ms / 1_000, self._beat)
            background.create_task(self._keep_engine(path))
            try:
                if await self._engine_or_stop(path):
                    await self._serve(path, requests)
                await self._say_goodbye()
            finally:
                await self._engine.close()
                await requests.end()
                await background.end()
        if isinstance(self.fatal, EngineHopeless):
            raise self.fatal
        return 0 if self.fatal is None else 1

    async def _kafka_or_stop(self) -> bool:
        """Wait for Kafka, alive and not ready: a process that dies of it is started again, and dies again. False when
        told to stop before."""
        waiting = asyncio.create_task(run_persistently("kafka", self._ask_kafka, clock=self._clock))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            stopping.cancel()
        return not self._stopping.is_set()

    async def _ask_kafka(self) -> None:
        async with admin_client(self._kafka, timeout_seconds=_KAFKA_PATIENCE_SECONDS):
            pass

    def _build_path(self, cluster: str, requests: TaskSet) -> RequestPath:
        connections, settings = self._connections, self.settings
        ports = PathPorts(
            ledger=connections.ledger,
            engine=self._engine,
            results=connections.results,
            replies=connections.replies,
            dead_letters=connections.publish_dead_letter,
            valve=self._source,
            spawner=requests,
            clock=self._clock,
            tokenizer=self._tokenizer,
            pass_on=self._handing_on.pass_on,
            retry_later=self._handing_on.retry_later,
        )
        values = PathSettings(
            pool=settings.pool,
            model=self.model,
            cluster=cluster,
            incarnation=self.incarnation,
            names=connections.names,
            flush_interval_seconds=settings.flush_interval_ms / 1_000,
            max_attempts=settings.max_attempts,
            max_result_bytes=self._kafka.max_message_bytes - _RESULT_OVERHEAD_BYTES,
            max_open_tokens=settings.max_open_tokens,
        )
        limit = DeadLetterLimit(max_run=settings.dead_letter_run_length, max_ratio=settings.dead_letter_ratio)
        return RequestPath(ports, values, observations=self._observations, limit=limit, alarm=self._give_up)

    def _build_recovery(self, path: RequestPath) -> Recovery:
        redis = self._redis
        return Recovery(
            self._connections.ledger,
            KafkaArchive(self._kafka),
            put_back=path.put_back,
            clock=self._clock,
            grace_seconds=(redis.lease_ttl_ms + redis.lease_refresh_ms) / 1_000,
            window_seconds=redis.recovery_window_seconds,
        )

    def _repeat(self, tasks: TaskSet, name: str, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        tasks.create_task(run_periodically(name, seconds, action, clock=self._clock))

    async def _engine_or_stop(self, path: RequestPath) -> bool:
        """Wait for the engine's first readiness. False when the worker is told to stop before that."""
        async with asyncio.TaskGroup() as group:
            waits = {group.create_task(event.wait()) for event in (path.engine_is_ready, self._stopping)}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return not self._stopping.is_set()

    async def _serve(self, path: RequestPath, requests: TaskSet) -> None:
        """Hold partitions and work on what they bring, until it is time to drain."""
        async with asyncio.TaskGroup() as group:
            loops = TaskSet(group)
            async with self._source:
                polling = loops.create_task(self._source.run(path.deliver))
                loops.create_task(path.emitter.run())
                loops.create_task(run_persistently("cancels", self._hear_cancels, clock=self._clock))
                self._repeat(loops, "deadlines", _SWEEP_SECONDS, self._expire)
                self._repeat(loops, "lag", _LAG_SECONDS, self._measure_lag)
                self.state = WorkerState.READY
                _log.info("ready", worker=self.worker_id, model=self.model, health_port=self.health.port)
                await self._stopping.wait()
                await self.drain(path)
                polling.cancel()
            await loops.end()
            await requests.end()

    async def drain(self, path: RequestPath) -> None:
        """Leave without losing anything: every record ends answered, copied, or still uncommitted."""
        self.state = WorkerState.DRAINING
        _log.info("draining", running=path.emitter.num_running, reason=repr(self.fatal or "asked"))
        # 1. Nothing new. What is only waiting here stays uncommitted and goes with its partition.
        await self._source.stop_intake()
        path.intake.stop()
        # 2. What runs may finish; a dead engine finishes nothing.
        patience = self.settings.drain_seconds if self._engine.is_ready else 0.0
        await self._running_end(path, patience)
        # 3. What did not finish goes on elsewhere, from its last token.
        unfinished = [*path.emitter.abandon(only_unfinished=False), *path.intake.abandon()]
        await asyncio.gather(*map(self._handing_on.hand_over, unfinished))
        # 4. Outcomes on their way out get there; what does not is repeated by the record's next holder.
        await self._running_end(path, _CONCLUDE_SECONDS)
        # 5. The offsets of all that is done. Leaving the group, the last heartbeat and the lease follow.
        await self._source.commit_now()

    async def _running_end(self, path: RequestPath, seconds: float) -> None:
        try:
            await asyncio.wait_for(path.emitter.idle(), seconds)
        except TimeoutError:
            _log.info("still_running", requests=path.emitter.num_running, waited_seconds=seconds)

    async def _say_goodbye(self) -> None:
        self.state = WorkerState.STOPPED if self.fatal is None else WorkerState.ENGINE_DOWN
        try:
            await self._beat()
            await self._connections.lease_ledger.drop_lease(self.incarnation)
        except PlatformError as error:
            _log.warning("goodbye_not_heard", error=error.message)

    # ------------------------------------------------------------------ loops and listeners

    async def _keep_engine(self, path: RequestPath) -> None:
        try:
            await self._engine.run(path)
        except EngineFailed as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """This worker cannot go on; its orchestrator sees the exit status, the fleet sees the last heartbeat."""
        _log.critical("giving_up", error=str(error))
        self.fatal = self.fatal or error
        self._stopping.set()

    async def _refresh_lease(self) -> None:
        ledger = self._connections.lease_ledger
        epoch = await ledger.refresh_lease(self.incarnation)
        if self._recovery is not None:
            self._recovery.noticed(epoch)
        await self._clock.look(ledger.time_ms)

    async def _beat(self) -> None:
        source = self._source
        LAST_POLL_AGE.set(source.last_poll_age_seconds)
        OLDEST_UNFINISHED_AGE.set(source.oldest_unfinished_age_seconds)
        RECORDS_IN_FLIGHT.set(source.in_flight_count)
        INTAKE_PAUSED.set(float(self._path is not None and self._path.is_paused))
        self._observations.publish_gauges()
        await self._connections.broker.publish_heartbeat(self._heartbeats.next())

    async def _measure_lag(self) -> None:
        self._lag = await self._source.measure_lag() or self._lag
        for topic, records in self._lag.items():
            CONSUMER_LAG.labels(topic=topic).set(records)

    async def _expire(self) -> None:
        assert self._path is not None
        self._path.emitter.expire(self._clock.now_ms())

    async def _hear_cancels(self) -> None:
        assert self._path is not None
        async with self._connections.ledger.listen_cancellations(self.incarnation) as request_ids:
            async for request_id in request_ids:
                self._path.emitter.cancel(request_id)

    async def _obey(self, command: FleetCommand) -> None:
        if command.worker_id != self.worker_id:
            return
        _log.info("command", kind=command.kind.value, reason=command.reason)
        if command.kind is FleetCommandKind.DRAIN:
            self._stopping.set()
        elif self._path is not None:
            self._path.quarantine(command.kind is FleetCommandKind.QUARANTINE)
            with contextlib.suppress(PlatformError):  # at once: what is routed to it until then waits here
                await self._beat()

    async def _write_cancellation(self, cancellation: Cancellation) -> None:
        await self._connections.ledger.cancel(
            cancellation.request_id, reason=cancellation.reason, tenant=cancellation.tenant
        )

    # ------------------------------------------------------------------ views

    @property
    def _bulk_topic(self) -> str:
        return self._connections.names.requests(self.settings.pool, Lane.BULK)

    def _load(self) -> WorkerLoad:
        step, path = self._observations.last_step, self._path
        is_down = self.state is WorkerState.READY and not self._engine.is_ready
        return WorkerLoad(
            state=WorkerState.ENGINE_DOWN if is_down else self.state,
            ready=self._engine.ready,
            statistics=None if step is None else step.statistics,
            num_running=0 if path is None else path.emitter.num_running,
            num_waiting=0 if path is None else path.intake.num_pursued,
            open_tokens=0 if path is None else path.emitter.num_open_tokens,
            tokens_per_second=self._observations.rate.per_second(self._clock.monotonic()),
            drained_tokens_per_second=self._observations.drain.per_busy_second(self._clock.monotonic()),
            step_seconds=self._observations.step_seconds,
            lag_records=sum(self._lag.values()) - (bulk := self._lag.get(self._bulk_topic, 0)),
            bulk_lag_records=bulk,
            is_intake_paused=path is not None and path.is_paused,
            is_quarantined=path is not None and path.is_quarantined,
            service_levels=self._observations.service_levels.counts(),
        )

    def _readiness(self) -> Readiness:
        source = self._source
        return Readiness(
            is_engine_ready=self._engine.is_ready,
            is_draining=self._stopping.is_set(),
            num_partitions=len(source.assignment),
            last_poll_age_seconds=source.last_poll_age_seconds,
            oldest_unfinished_age_seconds=source.oldest_unfinished_age_seconds,
            max_unfinished_age_seconds=_MAX_UNFINISHED_SECONDS,
        )


def build_worker(
    settings: WorkerSettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    *,
    clock: Clock | None = None,
    slo: SloSettings | None = None,
) -> Worker:
    return Worker(settings, kafka, redis, clock=clock or SystemClock(), slo=slo or SloSettings())
