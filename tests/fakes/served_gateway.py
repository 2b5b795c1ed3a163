"""The real gateway on a free port with uvicorn, its world replaced: in-memory ledger, recording producer, fed fleet."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from services.gateway.application import Parts, build_gateway
from services.gateway.gateway import Gateway
from services.gateway.settings import GatewaySettings
from shared.contracts.fleet import Heartbeat, WorkerState
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.contracts.requests import InferenceRequest, Lane
from shared.contracts.topics import TopicNames
from shared.ledger.records import RequestState
from shared.messaging.compacted_topic import TopicChange
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.scripted_worker import FakeProducer, Job, ScriptedWorker

TOPIC = TopicNames().requests("default", Lane.INTERACTIVE)

HEARTBEAT = Heartbeat(
    worker_id=WorkerId("default-0"),
    incarnation=Incarnation("default-0.abc"),
    sequence_number=1,
    sent_at_ms=1_700_000_000_000,
    state=WorkerState.READY,
    pool="default",
    models=("tiny",),
    fingerprint="f",
    max_model_tokens=1_024,
    partitions=((TOPIC, 0), (TOPIC, 1)),
    running_requests=0,
    waiting_requests=0,
    max_running_requests=8,
    kv_blocks_total=100,
    kv_blocks_free=100,
    kv_block_tokens=16,
    output_tokens_per_second=0.0,
    outstanding_tokens=0,
    last_poll_age_ms=0,
    oldest_unfinished_age_ms=0,
    device="cpu",
    dtype="float32",
    version="0",
)


def heartbeat(**changes: Any) -> Heartbeat:
    return replace(HEARTBEAT, **changes)


async def until(condition: Callable[[], Any], *, seconds: float = 5.0) -> Any:
    """Poll a condition until it holds; fail the test when it does not in time."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.005)
    return found


class QuietServer(uvicorn.Server):
    """Leaves the process's signal handlers alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def serving(application: FastAPI) -> AsyncIterator[str]:
    """Its URL, while it runs."""
    # Named TCP: asyncio switches Nagle's algorithm off only then, and it costs 40 ms an event.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = QuietServer(
            uvicorn.Config(application, log_config=None, http="httptools", lifespan="on", timeout_graceful_shutdown=2)
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or task.done(), seconds=20)
            assert server.started, "the gateway did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@dataclass
class ServedGateway:
    url: str
    gateway: Gateway
    ledger: InMemoryLedger
    producer: FakeProducer
    worker: ScriptedWorker
    client: httpx.AsyncClient

    async def published(self, number: int = 1) -> Any:
        """The record of the n-th publication, once it is there."""
        await until(lambda: len(self.producer.sent) >= number)
        return self.producer.record(number - 1)

    async def claimed(self, number: int = 1) -> Job:
        job = await self.worker.claim(await self.published(number))
        assert isinstance(job, Job)
        return job

    def state_of(self, request_id: str) -> RequestState:
        return self.ledger.store.entries[request_id].state


@asynccontextmanager
async def served_gateway(
    *,
    lookup: Callable[..., Any] | None = None,
    fleet: tuple[Heartbeat, ...] = (HEARTBEAT,),
    **settings: Any,
) -> AsyncIterator[ServedGateway]:
    ledger = InMemoryLedger()
    producer = FakeProducer()

    async def nothing(*_: Any) -> InferenceRequest | None:
        return None

    application = build_gateway(
        GatewaySettings(**({"silence_seconds": 0.1, "grace_seconds": 0.2, "heartbeat_age_seconds": 600} | settings)),
        kafka=KafkaSettings(),
        redis=RedisSettings(),
        parts=Parts(ledger=ledger, producer=producer, lookup=lookup or nothing, hears_fleet=False),
    )
    async with serving(application) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        gateway = application.state.gateway
        gateway.keyring.observe(TopicChange(records=(), is_complete=True))
        for beat in fleet:
            gateway.observe(beat)
        yield ServedGateway(
            url=url,
            gateway=gateway,
            ledger=ledger,
            producer=producer,
            worker=ScriptedWorker(ledger),
            client=client,
        )
