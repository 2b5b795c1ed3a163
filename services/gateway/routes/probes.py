"""What machines and operators look at: /livez, /readyz, /metrics, and the AsyncAPI pages."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from services.gateway.asyncapi_document import asyncapi_document, asyncapi_page
from services.gateway.error_responses import json_response
from services.gateway.gateway import gateway_of
from shared.telemetry.metrics_http import render_metrics

router = APIRouter(tags=["operations"])


@router.get("/livez", response_class=Response, summary="The process works; restart it when not")
async def livez(request: Request) -> Response:
    is_alive = gateway_of(request).readiness.is_alive
    return json_response(msgspec.json.encode({"alive": is_alive}), status=200 if is_alive else 500)


@router.get("/readyz", response_class=Response, summary="Requests are welcome, or what is wrong")
async def readyz(request: Request) -> Response:
    problems = await gateway_of(request).readiness.problems()
    body = msgspec.json.encode({"ready": not problems, "problems": problems})
    headers = {"retry-after": "1"} if problems else None
    return json_response(body, status=503 if problems else 200, headers=headers)


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
async def metrics(request: Request) -> Response:
    content_type, body = render_metrics(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


@router.get("/asyncapi.json", response_class=Response, summary="The Kafka side, as AsyncAPI 3")
async def asyncapi_json(request: Request) -> Response:
    return json_response(msgspec.json.encode(asyncapi_document(request.app.state.topic_names)))


@router.get("/asyncapi", response_class=HTMLResponse, summary="The Kafka side, to read")
async def asyncapi_html(request: Request) -> Response:
    return HTMLResponse(asyncapi_page(asyncapi_document(request.app.state.topic_names)))
