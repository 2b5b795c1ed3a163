"""An installation of its own per test, on the session's Kafka and Redis, and a worker that does as it is told."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from services.supervisor.application import Supervisor, build_supervisor
from services.supervisor.settings import SupervisorSettings
from shared.contracts.fleet import FleetEvent, FleetEventKind, Heartbeat, WorkerState
from shared.contracts.identifiers import WorkerId, new_incarnation, seed_from_request_id
from shared.contracts.requests import Lane
from shared.contracts.topics import topic_specifications
from shared.ledger.ledger import Ledger
from shared.ledger.records import ClaimRequest, Registration, Run
from shared.messaging.admin import cluster_id, ensure_topics
from shared.messaging.broker import ControlBroker
from shared.messaging.lookup import RecordLookup
from shared.messaging.producer import RecordProducer
from shared.messaging.records import SourceRecord
from shared.openai.envelope import read_envelope
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings

POOL = "test"
PATIENCE_SECONDS = 20.0


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition (plain or async) with a deadline; its first true value."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}")


class ScriptedWorker:
    """Claims what it is told to, keeps a lease while it is told to, sends heartbeats when it is told to."""

    def __init__(self, installation: "Installation", name: str) -> None:
        self._installation = installation
        self.worker_id = WorkerId(name)
        self.incarnation = new_incarnation(self.worker_id)
        self._sequence_number = 0

    async def beat(self, state: WorkerState = WorkerState.READY) -> None:
        self._sequence_number += 1
        await self._installation.control.publish_heartbeat(
            Heartbeat(
                worker_id=self.worker_id, incarnation=self.incarnation, sequence_number=self._sequence_number,
                sent_at_ms=time.time_ns() // 1_000_000, state=state, pool=POOL, models=("m",), fingerprint="f",
                max_model_tokens=2_048, partitions=(("t", 0),), running_requests=1, waiting_requests=0,
                max_running_requests=8, kv_blocks_total=10, kv_blocks_free=9, kv_block_tokens=16,
                output_tokens_per_second=1.0, outstanding_tokens=5, last_poll_age_ms=1,
                oldest_unfinished_age_ms=1, device="cpu", dtype="float32", version="test",
            )
        )  # fmt: skip

    async def claim(self, record: SourceRecord) -> Run:
        installation = self._installation
        envelope = read_envelope(record, names=installation.kafka.topic_names, pool=POOL, cluster=installation.cluster)
        claim = await installation.ledger.claim(
            ClaimRequest(
                registration=Registration(
                    request_id=envelope.request_id,
                    pool=POOL,
                    lane=envelope.lane,
                    tenant=envelope.tenant,
                    deadline_ms=envelope.deadline_ms,
                    fingerprint=envelope.fingerprint,
                    seed=seed_from_request_id(envelope.request_id),
                ),
                incarnation=self.incarnation,
                coordinates=envelope.coordinates,
                max_attempts=3,
            )
        )
        assert isinstance(claim, Run), claim
        return claim

    async def die(self) -> None:
        """What a kill -9 is to the ledger, without waiting for the lease."""
        await self._installation.ledger.drop_lease(self.incarnation)


@dataclass
class Installation:
    kafka: KafkaSettings
    redis: RedisSettings
    cluster: str
    ledger: Ledger
    producer: RecordProducer
    control: ControlBroker
    lookup: RecordLookup
    events: list[FleetEvent]
    stack: AsyncExitStack
    stopping: dict[Supervisor, asyncio.Event]

    def told(self, kind: FleetEventKind) -> list[FleetEvent]:
        return [event for event in self.events if event.kind is kind]

    def stop(self, supervisor: Supervisor) -> None:
        self.stopping[supervisor].set()

    def worker(self, name: str = "w-0") -> ScriptedWorker:
        return ScriptedWorker(self, name)

    async def post(self, *, headers: tuple[tuple[str, bytes | None], ...] = ()) -> SourceRecord:
        """A request as a foreign producer would post it; its record as Kafka has it."""
        topic = self.kafka.topic_names.requests(POOL, Lane.INTERACTIVE)
        placed = await self.producer.send(topic, key=b"k", value=b'{"prompt": "hi"}', headers=headers, partition=0)
        record = await self.lookup.fetch(topic, placed.partition, placed.offset)
        assert record is not None
        return record

    async def resumed(self) -> list[SourceRecord]:
        """Everything on the resume topic (one partition)."""
        topic, found = self.kafka.topic_names.resume(POOL), []
        while (record := await self.lookup.fetch(topic, 0, len(found))) is not None:
            found.append(record)
        return found

    async def supervise(self, **changes: Any) -> Supervisor:
        """Start another supervisor; it stops with the test."""
        settings = SupervisorSettings(host="127.0.0.1", port=0, **changes)
        supervisor = await self.stack.enter_async_context(build_supervisor(settings, self.kafka, self.redis))
        stopping = self.stopping[supervisor] = asyncio.Event()
        group = await self.stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(supervisor.run(stopping))
        self.stack.callback(stopping.set)
        await until(lambda: supervisor.address and not supervisor.problems(), "the supervisor is ready")
        return supervisor


@pytest.fixture
async def installation(kafka_bootstrap: str, redis_url: str) -> AsyncIterator[Installation]:
    prefix = f"s{uuid.uuid4().hex[:8]}."
    kafka = KafkaSettings(
        bootstrap_servers=kafka_bootstrap, topic_prefix=prefix, group_prefix=prefix, request_partitions=1
    )
    redis = RedisSettings(url=redis_url, key_prefix=f"{prefix}:")
    await ensure_topics(kafka, topic_specifications(kafka.topic_names, pools=(POOL,), request_partitions=1))
    events: list[FleetEvent] = []

    async def listen(event: FleetEvent) -> None:
        events.append(event)

    control = ControlBroker(kafka, client_id="test")
    control.on_event(listen)
    async with (
        Ledger(redis) as ledger,
        RecordProducer(kafka, client_id="test") as producer,
        RecordLookup(kafka) as lookup,
        control,
        AsyncExitStack() as stack,
    ):
        cluster = await cluster_id(kafka)
        await ledger.open_epoch(is_refilled=False)
        yield Installation(kafka, redis, cluster, ledger, producer, control, lookup, events, stack, {})


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5.0) as client:
        yield client
