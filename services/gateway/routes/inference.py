"""`POST /v1/chat/completions` and `POST /v1/completions`, streaming and not, or 202 for who will come back."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.awaited_outcome import AwaitedOutcome
from services.gateway.error_responses import json_response
from services.gateway.gateway import Gateway, gateway_of
from services.gateway.http_boundary import exchange_of
from services.gateway.routes.asks import read_ask
from services.gateway.routes.request_status import location_of, render_accepted
from services.gateway.stream_shapes import shape_of
from services.gateway.submission import Accepted
from shared.contracts.requests import RequestKind

router = APIRouter(tags=["inference"])


def _documented(body: str, summary: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body}"}
    return {
        "summary": summary,
        "response_class": Response,
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }


@router.post("/v1/chat/completions", **_documented("ChatBody", "Answer a conversation"))
async def chat_completions(request: Request) -> Response:
    return await _answer(request, RequestKind.CHAT)


@router.post("/v1/completions", **_documented("CompletionBody", "Continue a text"))
async def completions(request: Request) -> Response:
    return await _answer(request, RequestKind.COMPLETION)


async def _answer(request: Request, kind: RequestKind) -> Response:
    gateway = gateway_of(request)
    ask = await read_ask(request, kind, body_limit_bytes=gateway.settings.body_limit_bytes)
    accepted = await gateway.submissions.submit(ask)
    exchange_of(request.scope).request_id = accepted.request_id
    if accepted.subscription is None:
        headers = {"location": location_of(accepted.request_id), "preference-applied": "respond-async"}
        return json_response(render_accepted(accepted.request_id), status=202, headers=headers)
    following = gateway.followings.follow(
        accepted.subscription,
        num_choices=accepted.request.num_choices,
        deadline_ms=accepted.deadline_ms,
        place=accepted.place,
        starts_from_log=accepted.is_repeat,
        registration=accepted.registration,
    )
    return _stream(gateway, accepted, following) if accepted.request.stream else AwaitedOutcome(following)


def _stream(gateway: Gateway, accepted: Accepted, following: Any) -> Response:
    shape = shape_of(accepted.request, pool=accepted.registration.pool, created_seconds=accepted.created_seconds)
    return gateway.event_stream(following, shape, gateway.renderer(accepted.request_id, shape))
