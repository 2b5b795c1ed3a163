"""`/v1/requests/{id}`: look at a request, come back to its stream, cancel it. Another tenant's does not exist."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.error_responses import json_response
from services.gateway.gateway import Gateway, gateway_of
from services.gateway.http_boundary import exchange_of
from services.gateway.routes.request_status import location_of, render_status
from services.gateway.server_sent_events import LAST_EVENT_ID, parse_event_id
from services.gateway.stream_order import StreamPosition, delivered_prefix
from shared.contracts.errors import InvalidRequest, LedgerUnavailable, RequestNotFound
from shared.contracts.identifiers import RequestId, is_request_id
from shared.ledger.records import RequestRecord
from shared.openai.outcomes import request_id_of
from shared.openai.streaming import StreamRenderer

router = APIRouter(tags=["requests"])


@router.get("/v1/requests/{name}", response_class=Response, summary="State of a request, and its result")
async def read_request(request: Request, name: str) -> Response:
    record = await _own_record(request, name)
    return json_response(render_status(record))


@router.delete("/v1/requests/{name}", response_class=Response, summary="Cancel a request")
async def cancel_request(request: Request, name: str) -> Response:
    """202 when the end was asked for, 200 with the outcome when it had come already."""
    gateway = gateway_of(request)
    record = await _own_record(request, name)
    answer = await gateway.ledger.cancel(record.request_id, reason="its caller cancelled it", tenant=None)
    current = await gateway.ledger.describe(record.request_id) or record
    headers = {"location": location_of(record.request_id)}
    return json_response(render_status(current), status=202 if answer.requested else 200, headers=headers)


@router.get("/v1/requests/{name}/stream", response_class=Response, summary="Come back to a stream")
async def resume_stream(request: Request, name: str) -> Response:
    """Server-sent events after `Last-Event-ID`, or all of them. Works on requests that came by Kafka, too."""
    gateway = gateway_of(request)
    last_event_id = request.headers.get(LAST_EVENT_ID)
    positions = [] if not last_event_id else parse_event_id(last_event_id)
    record = await _own_record(request, name)
    shape = await gateway.shapes.find(record)
    if shape.request.keeps_the_best:
        raise InvalidRequest("best_of above n cannot be streamed: the best are known at the end", param="best_of")
    if len(positions) > shape.request.num_choices:
        raise InvalidRequest("Last-Event-ID is not an id of this stream", param=LAST_EVENT_ID)
    renderer = gateway.renderer(record.request_id, shape)
    subscription = gateway.followings.subscribe(record.request_id, wants_chunks=True)
    try:
        await _skip_delivered(gateway, renderer, record, positions)
        following = gateway.followings.follow(
            subscription,
            num_choices=shape.request.num_choices,
            deadline_ms=record.deadline_ms,
            positions=positions,
            starts_from_log=True,
            registration=record.registration,
        )
    except BaseException:
        gateway.followings.router.close(subscription)
        raise
    return gateway.event_stream(following, shape, renderer)


async def _refuse_to_deny(gateway: Gateway) -> None:
    """Raises `LedgerUnavailable` while Redis is, or was lately, without what it knew: unknown is not "none" then.

    A request that nobody had begun is known again when a worker gets to it. How long a backlog makes it wait nobody
    can say, but at its deadline it is answered.
    """
    epoch = await gateway.ledger.epoch()
    if epoch is None:
        raise LedgerUnavailable("Redis lost its data and is being refilled; ask again")
    longest_wait_ms = gateway.settings.default_deadline_seconds * 1_000
    if epoch.is_refilled and gateway.clock.now_ms() - epoch.opened_at_ms < longest_wait_ms:
        raise LedgerUnavailable("Redis has lost its data lately; a request that waits may not be back yet; ask again")


async def _skip_delivered(
    gateway: Gateway, renderer: StreamRenderer, record: RequestRecord, positions: list[StreamPosition]
) -> None:
    """Render what the client has and throw it away: roles and text offsets depend on it."""
    delivered = [position for position in positions if position.num_tokens or position.num_characters]
    if not delivered:
        return
    snapshot = await gateway.ledger.attach(record.request_id, channel=gateway.followings.channel)
    if snapshot is not None:
        for position in delivered:
            renderer.chunk(delivered_prefix(snapshot.chunks, position))


async def _own_record(request: Request, name: str) -> RequestRecord:
    """The record of a request id or an OpenAI object id. Raises `RequestNotFound`, for foreign tenants as well."""
    gateway = gateway_of(request)
    authenticator = gateway.authenticator
    tenant = authenticator.caller_of(request.headers.get("authorization")).tenant
    request_id = RequestId(request_id_of(name))
    record = await gateway.ledger.describe(request_id) if is_request_id(request_id) else None
    if record is None or not (authenticator.is_open or record.tenant == tenant):
        await _refuse_to_deny(gateway)
        raise RequestNotFound(f"no request {name[:64]} is known")
    exchange_of(request.scope).request_id = request_id
    return record
