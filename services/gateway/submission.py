"""The order of work of a new request: parse, authenticate, find the pool, limit, admit, register, publish.

Accepted means registered in the ledger *and* acknowledged by Kafka; until both, every failure is a refusal with a
status. It knows no HTTP beyond what a caller's headers say (`Ask`) and does not wait for the answer.

When publishing fails after registering, nobody knows whether the record is there. Without an idempotency key the
request is cancelled in the ledger, so that a record which did arrive ends at its claim instead of being computed for
nobody. With a key it is left waiting: the repeat that the caller will send publishes it (DELIVERY line 16).
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from opentelemetry.context import Context

from services.gateway.admission import Admission, Place, Seeker
from services.gateway.authentication import Authenticator
from services.gateway.fleet_directory import FleetDirectory
from services.gateway.following import Followings, GatewayStopping
from services.gateway.ports import GatewayLedger
from services.gateway.prefix_key import prefix_key
from services.gateway.request_publisher import Publication, RequestPublisher
from services.gateway.routing_policies import Route
from services.gateway.stream_router import Subscription
from services.gateway.stream_shapes import StreamShapes, shape_of
from services.gateway.tenant_limits import TenantLimits
from shared.contracts.errors import (
    CapacityError,
    IdempotencyConflict,
    InvalidRequest,
    PlatformError,
    PoisonMessage,
)
from shared.contracts.identifiers import RequestId, body_fingerprint, seed_from_request_id
from shared.contracts.requests import InferenceRequest, Lane, RequestKind
from shared.ledger.records import RegisterStatus, Registration
from shared.openai.envelope import gateway_request_id
from shared.openai.requests import parse_request
from shared.resilience.clock import Clock
from shared.telemetry.metrics import ADMISSION

logger = structlog.get_logger(__name__)

KEPT = "kept"
"""A subscriber that nobody listens as and that never leaves: no disconnect cancels a request that has it."""

_KEY_LIMIT_CHARACTERS = 255
_UNKNOWN_TOKENS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One POST, read. `is_kept`: the caller does not wait (`Prefer: respond-async`)."""

    body: bytes
    kind: RequestKind
    authorization: str | None
    idempotency_key: str | None
    deadline_ms: int | None
    priority: int
    is_kept: bool
    trace_context: Context
    lane: Lane = Lane.INTERACTIVE
    response_headers: dict[str, str] = field(default_factory=dict)
    """Filled here, sent with whatever the answer is: what the tenant may still ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A request that will be answered. `subscription` and `place` are the waiting client's; None for a kept one."""

    registration: Registration
    request: InferenceRequest
    deadline_ms: int
    created_seconds: int
    is_repeat: bool
    subscription: Subscription | None
    place: Place | None

    @property
    def request_id(self) -> RequestId:
        return self.registration.request_id


class Submissions:
    def __init__(
        self,
        *,
        ledger: GatewayLedger,
        publisher: RequestPublisher,
        authenticator: Authenticator,
        directory: FleetDirectory,
        admission: Admission,
        limits: TenantLimits,
        followings: Followings,
        shapes: StreamShapes,
        clock: Clock,
        default_deadline_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._authenticator = authenticator
        self._directory = directory
        self._admission = admission
        self._limits = limits
        self._followings = followings
        self._shapes = shapes
        self._clock = clock
        self._default_deadline_ms = round(default_deadline_seconds * 1_000)
        self.is_stopping = False

    async def submit(self, ask: Ask) -> Accepted:
        """Raises the `PlatformError` that says why not."""
        request = _parse(ask)
        caller = self._authenticator.caller_of(ask.authorization)
        tenant = caller.tenant
        if request.model is None:
            raise InvalidRequest("Missing required field: model.", param="model")
        caller.require_model(request.model)
        pool = self._directory.pool_of(request.model)
        if self.is_stopping:
            raise GatewayStopping("this gateway is stopping; ask another one")
        deadline_ms = self._clock.now_ms() + self._default_deadline_ms if ask.deadline_ms is None else ask.deadline_ms
        tokens = self._asked_tokens(request, pool)
        with _counted(ask.lane):
            ask.response_headers.update(self._limits.spend(tenant, tokens=tokens, key=caller.key))
            place = self._admission.enter(
                Seeker(tenant=tenant, lane=ask.lane, pool=pool, tokens=tokens, deadline_ms=deadline_ms)
            )
        try:
            accepted = await self._accept(ask, request, tenant, pool, place, deadline_ms)
        except BaseException:
            place.give_back()
            raise
        if ask.is_kept:
            place.give_back()
        return accepted

    def _asked_tokens(self, request: InferenceRequest, pool: str) -> int:
        """Output tokens of all choices; without a limit of its own a request may go on to the context's end."""
        limit = request.sampling.max_tokens
        if limit is None:
            workers = self._directory.ready_workers(pool)
            limit = max((worker.max_model_tokens for worker in workers), default=_UNKNOWN_TOKENS)
        return max(1, limit) * request.num_choices

    async def _accept(
        self, ask: Ask, request: InferenceRequest, tenant: str, pool: str, place: Place, deadline_ms: int
    ) -> Accepted:
        event_id = uuid.uuid4().hex if ask.idempotency_key is None else f"idem:{ask.idempotency_key}"
        request_id = gateway_request_id(tenant=tenant, event_id=event_id)
        now_ms = self._clock.now_ms()
        registration = Registration(
            request_id=request_id,
            pool=pool,
            lane=ask.lane,
            tenant=tenant,
            deadline_ms=deadline_ms,
            fingerprint=body_fingerprint(ask.body),
            seed=request.sampling.seed if request.has_own_seed else seed_from_request_id(request_id),
        )
        publication = Publication(
            request_id=request_id,
            event_id=event_id,
            tenant=tenant,
            pool=pool,
            lane=ask.lane,
            kind=ask.kind,
            body=ask.body,
            deadline_ms=deadline_ms,
            priority=ask.priority,
            trace_context=ask.trace_context,
            route=Route(tokens=place.seeker.tokens, affinity=prefix_key(request, tenant)),
        )
        subscription = None
        if not ask.is_kept:
            subscription = self._followings.subscribe(request_id, wants_chunks=request.stream)
        try:
            is_repeat = await self._register_and_publish(registration, publication, ask)
        except BaseException:
            if subscription is not None:
                self._followings.router.close(subscription)
            raise
        created_seconds = now_ms // 1_000
        self._shapes.remember(request_id, shape_of(request, pool=pool, created_seconds=created_seconds))
        return Accepted(
            registration=registration,
            request=request,
            deadline_ms=deadline_ms,
            created_seconds=created_seconds,
            is_repeat=is_repeat,
            subscription=subscription,
            place=None if ask.is_kept else place,
        )

    async def _register_and_publish(self, registration: Registration, publication: Publication, ask: Ask) -> bool:
        channel = KEPT if ask.is_kept else self._followings.channel
        answer = await self._ledger.register(registration, channel=channel)
        if answer.status is RegisterStatus.CONFLICT:
            raise IdempotencyConflict("this Idempotency-Key was used with another body", param="idempotency-key")
        if answer.should_publish:
            try:
                await self._publisher.publish(publication)
            except PlatformError:
                if ask.idempotency_key is None:
                    await self._withdraw(registration.request_id)
                raise
        return answer.status is RegisterStatus.EXISTING

    async def _withdraw(self, request_id: RequestId) -> None:
        try:
            await self._ledger.cancel(request_id, reason="it was never accepted", tenant=None)
        except PlatformError as error:
            logger.warning("a refused request could not be withdrawn", request_id=request_id, error=error.code)


@contextmanager
def _counted(lane: Lane) -> Iterator[None]:
    """Count the decision, admitted or refused and why."""
    try:
        yield
    except CapacityError as error:
        ADMISSION.labels(lane.value, error.code).inc()
        raise
    ADMISSION.labels(lane.value, "admitted").inc()


def _parse(ask: Ask) -> InferenceRequest:
    if ask.idempotency_key is not None and not 0 < len(ask.idempotency_key) <= _KEY_LIMIT_CHARACTERS:
        raise InvalidRequest(
            f"Idempotency-Key must have 1 to {_KEY_LIMIT_CHARACTERS} characters", param="idempotency-key"
        )
    try:
        return parse_request(ask.body, kind=ask.kind)
    except PoisonMessage as error:
        raise InvalidRequest(error.message, param=error.param) from None
