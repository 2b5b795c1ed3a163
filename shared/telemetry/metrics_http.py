"""`GET /metrics` for whoever serves HTTP: a rendering function and an ASGI application around it.

`application.router.routes.append(Route("/metrics", MetricsEndpoint()))` serves it in FastAPI without a redirect.
Refuses to know the metrics; importing `shared.telemetry.metrics` declares them.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client.exposition import choose_encoder

import shared.telemetry.metrics  # noqa: F401  (declares every metric, so that a scrape shows zeros, not holes)
from shared.telemetry.catalogue import REGISTRY

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def render_metrics(accept: str = "") -> tuple[str, bytes]:
    """Content type and body of a scrape, in the format that the `Accept` header asks for."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(REGISTRY)


class MetricsEndpoint:
    """ASGI application that answers every request with the metrics."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = next((value for name, value in scope.get("headers", ()) if name == b"accept"), b"")
        content_type, body = render_metrics(accept.decode("latin-1"))
        headers = [
            (b"content-type", content_type.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})
