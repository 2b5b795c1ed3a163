"""The outermost layer of the HTTP side, plain ASGI: names each exchange, times it, traces it, and turns a bug into
a 500 in OpenAI's shape. It knows no routes and no requests of the platform.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, set_span_in_context

from services.gateway.error_responses import error_response
from shared.contracts.errors import InvariantViolated
from shared.telemetry import spans
from shared.telemetry.metrics import HTTP_DURATION, HTTP_REQUESTS
from shared.telemetry.propagation import extract

logger = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_SCOPE_KEY = "penstock.exchange"
_TRACED_PREFIX = "/v1/"
_UNROUTED = "unrouted"


@dataclass(slots=True)
class Exchange:
    """One HTTP request and its response. `request_id` becomes the platform's id once there is one."""

    request_id: str
    span: Span | None
    trace_context: Context
    started_at: float
    status: int = 0
    error_code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with the response, whatever it becomes."""


def exchange_of(scope: Scope) -> Exchange:
    exchange = scope[_SCOPE_KEY]
    assert isinstance(exchange, Exchange)
    return exchange


class HttpBoundary:
    """ASGI middleware; `x-request-id` is on every response that leaves it."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[_SCOPE_KEY] = _begin(scope)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", exchange.request_id.encode()),
                    *((name.encode(), value.encode()) for name, value in exchange.headers.items()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception:
            logger.exception("the gateway failed", request_id=exchange.request_id, path=scope["path"])
            if exchange.status == 0:
                response = error_response(InvariantViolated("the gateway failed; the error is logged"))
                await response(scope, receive, send_named)
        finally:
            _end(scope, exchange)


def _begin(scope: Scope) -> Exchange:
    span: Span | None = None
    context = Context()
    if scope["path"].startswith(_TRACED_PREFIX):
        parent = extract((name.decode("latin-1"), value) for name, value in scope["headers"])
        span = spans.tracer().start_span(f"{scope['method']} {scope['path']}", context=parent, kind=SpanKind.SERVER)
        context = set_span_in_context(span, parent)
    return Exchange(request_id=uuid.uuid4().hex, span=span, trace_context=context, started_at=time.perf_counter())


def _end(scope: Scope, exchange: Exchange) -> None:
    route = getattr(scope.get("route"), "path", _UNROUTED)
    HTTP_REQUESTS.labels(route, str(exchange.status)).inc()
    span = exchange.span
    HTTP_DURATION.labels(route).observe(time.perf_counter() - exchange.started_at, spans.exemplar_of(span))
    if span is None:
        return
    if span.is_recording():
        span.update_name(f"{scope['method']} {route}")
        span.set_attributes(
            {
                spans.HTTP_REQUEST_METHOD: scope["method"],
                spans.HTTP_ROUTE: route,
                spans.HTTP_RESPONSE_STATUS_CODE: exchange.status,
                spans.REQUEST_ID: exchange.request_id,
            }
        )
        if exchange.status >= 500 or exchange.error_code is not None:
            spans.set_error(span, exchange.error_code or str(exchange.status), "")
    span.end()
