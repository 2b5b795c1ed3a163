"""Wires the gateway. The only place where its parts meet; what has a lifetime lives on one AsyncExitStack.

`build_gateway` makes the FastAPI application; real things are built in its lifespan where none were handed in.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.gateway.abandonment import Abandonments
from services.gateway.admission import Admission, AdmissionRules
from services.gateway.authentication import Authenticator, parse_api_keys
from services.gateway.capacity_model import CapacityModel
from services.gateway.error_responses import error_response, routing_error_response
from services.gateway.fleet_directory import FleetDirectory
from services.gateway.following import Followings
from services.gateway.gateway import Gateway
from services.gateway.http_boundary import HttpBoundary, exchange_of
from services.gateway.keyring import Keyring
from services.gateway.openapi_document import openapi_document
from services.gateway.ports import GatewayLedger, RequestProducer
from services.gateway.readiness import Readiness, Vitals
from services.gateway.request_publisher import RequestPublisher
from services.gateway.routes import inference, models, probes, requests
from services.gateway.routing import PartitionRouter
from services.gateway.settings import GatewaySettings
from services.gateway.stream_router import StreamRouter
from services.gateway.stream_shapes import RequestLookup, StreamShapes
from services.gateway.submission import Submissions
from services.gateway.tenant_limits import Quota, TenantLimits, parse_tenant_limits, parse_tenant_weights
from shared.contracts.errors import PlatformError
from shared.contracts.fleet import Heartbeat
from shared.contracts.requests import Coordinates, InferenceRequest
from shared.ledger.breaker import redis_breaker
from shared.ledger.ledger import Ledger
from shared.ledger.ledger_clock import LedgerClock
from shared.ledger.records import LOST
from shared.messaging.breaker import kafka_breaker
from shared.messaging.broker import control_broker
from shared.messaging.compacted_topic import follow_compacted
from shared.messaging.lookup import fetch_record
from shared.messaging.producer import RecordProducer
from shared.openai.decoding import decode_value
from shared.openai.envelope import read_envelope
from shared.resilience.clock import Clock, SystemClock
from shared.resilience.fair_shares import FairShares
from shared.resilience.lifecycle import run_periodically, run_persistently
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from shared.settings.slo import SloSettings
from shared.telemetry.first_samples import begin_errors
from shared.telemetry.metrics import ERRORS

logger = structlog.get_logger(__name__)

_TICKS_PER_SILENCE = 4
_SLOWEST_TICK_SECONDS = 0.25
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What tests hand in instead of real things; without `hears_fleet` they feed the directory and the
    keyring themselves."""

    ledger: GatewayLedger | None = None
    producer: RequestProducer | None = None
    lookup: RequestLookup | None = None
    clock: Clock | None = None
    hears_fleet: bool = True


def build_gateway(
    settings: GatewaySettings,
    *,
    kafka: KafkaSettings,
    redis: RedisSettings,
    slo: SloSettings | None = None,
    parts: Parts | None = None,
) -> FastAPI:
    given = parts or Parts()
    objectives = slo or SloSettings()

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            gateway = await _assemble(stack, settings, kafka, redis, objectives, given)
            application.state.gateway = gateway
            async with _loops(gateway, kafka if given.hears_fleet else None):
                logger.info("gateway ready to listen", channel=gateway.followings.channel)
                yield

    begin_errors()
    application = FastAPI(
        title="Penstock",
        description="OpenAI-compatible inference on Kafka.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    application.state.topic_names = kafka.topic_names
    for module in (inference, requests, models, probes):
        application.include_router(module.router)
    application.add_exception_handler(PlatformError, _refuse)
    application.add_exception_handler(HTTPException, _misrouted)
    application.add_middleware(HttpBoundary)
    application.openapi = lambda: openapi_document(application)  # type: ignore[method-assign]
    return application


async def _assemble(
    stack: AsyncExitStack,
    settings: GatewaySettings,
    kafka: KafkaSettings,
    redis: RedisSettings,
    slo: SloSettings,
    given: Parts,
) -> Gateway:
    """Entered in this order, left in the reverse one: streams first, then the fleet's ear, Kafka, Redis."""
    clock = given.clock or LedgerClock(SystemClock())
    name = settings.name or uuid.uuid4().hex[:12]
    channel = f"gateway-{name}-{uuid.uuid4().hex[:8]}"
    ledger = given.ledger
    if ledger is None:
        ledger = await stack.enter_async_context(Ledger(redis, breaker=redis_breaker(redis, clock=clock)))
    producer: RequestProducer
    if given.producer is not None:
        producer = given.producer
    else:
        breaker = kafka_breaker(kafka, clock=clock, name="requests")
        producer = await stack.enter_async_context(
            RecordProducer(kafka, client_id=f"penstock-{channel}", breaker=breaker, may_connect_later=True)
        )
    directory = FleetDirectory(
        max_age_seconds=settings.heartbeat_age_seconds,
        model_memory_seconds=settings.model_memory_seconds,
        default_pool=settings.default_pool,
        monotonic=clock.monotonic,
    )
    model = CapacityModel(clock=clock)

    def observe(heartbeat: Heartbeat) -> None:
        directory.observe(heartbeat)
        model.observe(heartbeat)

    keys = None if settings.api_keys is None else settings.api_keys.get_secret_value()
    keyring = Keyring()
    authenticator = Authenticator(parse_api_keys(keys), default_tenant=settings.default_tenant, keyring=keyring)
    followings = _followings(settings, ledger, channel, clock)
    publisher = RequestPublisher(
        producer,
        names=kafka.topic_names,
        directory=directory,
        router=PartitionRouter(settings.routing),
        now_ms=clock.now_ms,
    )
    shapes = StreamShapes(given.lookup or _lookup(kafka))
    vitals = Vitals()
    return Gateway(
        settings=settings,
        clock=clock,
        ledger=ledger,
        directory=directory,
        observe=observe,
        authenticator=authenticator,
        keyring=keyring,
        submissions=Submissions(
            ledger=ledger,
            publisher=publisher,
            authenticator=authenticator,
            directory=directory,
            admission=_admission(settings, slo, model, directory, clock),
            limits=_limits(settings),
            followings=followings,
            shapes=shapes,
            clock=clock,
            default_deadline_seconds=settings.default_deadline_seconds,
        ),
        followings=followings,
        shapes=shapes,
        readiness=Readiness(
            ledger=ledger,
            publisher=publisher,
            directory=directory,
            keyring=keyring,
            vitals=vitals,
            default_pool=settings.default_pool,
        ),
        vitals=vitals,
    )


def _followings(settings: GatewaySettings, ledger: GatewayLedger, channel: str, clock: Clock) -> Followings:
    return Followings(
        ledger=ledger,
        channel=channel,
        router=StreamRouter(buffer_chunks=settings.stream_buffer_chunks, monotonic=clock.monotonic),
        abandonments=Abandonments(
            ledger, channel=channel, grace_seconds=settings.grace_seconds, monotonic=clock.monotonic
        ),
        clock=clock,
        silence_seconds=settings.silence_seconds,
    )


def _limits(settings: GatewaySettings) -> TenantLimits:
    default = Quota(requests=settings.tenant_requests_per_minute, tokens=settings.tenant_tokens_per_minute)
    return TenantLimits(default, parse_tenant_limits(settings.tenant_limits))


def _admission(
    settings: GatewaySettings, slo: SloSettings, model: CapacityModel, directory: FleetDirectory, clock: Clock
) -> Admission:
    rules = AdmissionRules(
        max_outstanding_requests=settings.max_outstanding_requests,
        bulk_share=settings.bulk_share,
        greedy_share=settings.greedy_share,
        tenant_requests=settings.tenant_outstanding_requests,
        tenant_tokens=settings.tenant_outstanding_tokens,
        is_predictive=settings.admission,
    )
    return Admission(
        rules,
        objectives=slo,
        model=model,
        shares=FairShares(clock=clock, weights=parse_tenant_weights(settings.tenant_weights)),
        ready_workers=directory.ready_workers,
        clock=clock,
    )


async def _hear_fleet(gateway: Gateway, kafka: KafkaSettings, hearing: asyncio.Event) -> None:
    """Until cancelled. Raises BrokerUnavailable while no broker answers; to be called again then."""
    broker = control_broker(kafka, client_id=f"penstock-{gateway.followings.channel}")

    async def hear(heartbeat: Heartbeat) -> None:
        gateway.observe(heartbeat)

    broker.on_heartbeat(hear)
    async with broker:
        hearing.set()
        await asyncio.Event().wait()


def _lookup(kafka: KafkaSettings) -> RequestLookup:
    async def look_up(pool: str, where: Coordinates) -> InferenceRequest | None:
        record = await fetch_record(kafka, where.topic, where.partition, where.offset)
        if record is None:
            return None
        envelope = read_envelope(record, names=kafka.topic_names, pool=pool, cluster=kafka.cluster)
        return decode_value(envelope, record.value)

    return look_up


@asynccontextmanager
async def _loops(gateway: Gateway, kafka: KafkaSettings | None) -> AsyncIterator[None]:
    """The channel's listener, the fleet's, the keyring, the tick. Should one ever end, /livez says so: somebody starts
    us again. Without Kafka or Redis they try again, and the gateway is not ready."""
    listening, hearing = asyncio.Event(), asyncio.Event()

    async def listen() -> None:
        try:
            async with gateway.ledger.listen(gateway.followings.channel) as batches:
                gateway.vitals.is_listening = True
                listening.set()
                # After a failure there were messages we did not hear; the first time nobody follows anything yet.
                gateway.followings.router.dispatch([LOST])
                async for batch in batches:
                    gateway.followings.router.dispatch(batch)
        finally:
            gateway.vitals.is_listening = False

    async def tick() -> None:
        gateway.followings.router.wake_quiet(gateway.settings.silence_seconds)
        await gateway.followings.abandonments.sweep()

    tick_seconds = min(gateway.settings.silence_seconds / _TICKS_PER_SILENCE, _SLOWEST_TICK_SECONDS)
    clock = SystemClock()
    tasks = [
        _start("listener", gateway, lambda: run_persistently("listener", listen, clock=clock)),
        _start("tick", gateway, lambda: run_periodically("tick", tick_seconds, tick, clock=clock)),
    ]
    shared_clock = gateway.clock
    if isinstance(shared_clock, LedgerClock):

        async def look() -> None:
            await shared_clock.look(gateway.ledger.time_ms)

        # Deadlines are counted from it, so it is set before the first request.
        with contextlib.suppress(PlatformError):
            await look()
        tasks.append(_start("clock", gateway, lambda: run_periodically("clock", _LOOK_SECONDS, look, clock=clock)))
    if kafka is None:
        hearing.set()
    else:
        hear = partial(_hear_fleet, gateway, kafka, hearing)
        tasks.append(_start("fleet", gateway, lambda: run_persistently("fleet", hear, clock=clock)))
        follow = partial(_follow_keys, gateway.keyring, kafka, gateway.followings.channel)
        tasks.append(_start("keyring", gateway, lambda: run_persistently("keyring", follow, clock=clock)))
    try:
        await _first(listening, "the ledger's channel is not subscribed yet; nothing is accepted until Redis answers")
        await _first(hearing, "the fleet is not heard yet; nothing is accepted until Kafka answers")
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_keys(keyring: Keyring, kafka: KafkaSettings, channel: str) -> None:
    changes = follow_compacted(kafka, kafka.topic_names.api_keys, client_id=f"penstock-{channel}-keys")
    async with aclosing(changes):
        async for change in changes:
            keyring.observe(change)


def _start(name: str, gateway: Gateway, loop: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    async def run() -> None:
        try:
            await loop()
        finally:
            gateway.vitals.dead_loops.append(name)

    # Not a TaskGroup: its failure would cancel the lifespan under open responses; /livez tells instead.
    return asyncio.create_task(run(), name=f"gateway {name}")


async def _first(event: asyncio.Event, otherwise: str) -> None:
    """Before the first request, when Redis and Kafka are there; without them we start all the same and say 503."""
    try:
        await asyncio.wait_for(event.wait(), 3.0)
    except TimeoutError:
        logger.warning(otherwise)


async def _refuse(request: Request, error: Any) -> Response:
    exchange_of(request.scope).error_code = error.code
    ERRORS.labels(code=error.code, blame=error.blame.value).inc()
    return error_response(error)


async def _misrouted(request: Request, error: Any) -> Response:
    return routing_error_response(
        error.status_code, method=request.method, path=request.url.path, headers=dict(error.headers or {})
    )
