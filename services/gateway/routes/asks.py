"""What a POST says, read from its bytes and headers within limits. The last place that sees raw HTTP input."""

from starlette.requests import ClientDisconnect, Request

from services.gateway.http_boundary import exchange_of
from services.gateway.submission import Ask
from shared.contracts import headers as names_of
from shared.contracts.errors import BodyTooLarge, InvalidRequest, RequestCancelled
from shared.contracts.requests import Lane, RequestKind
from shared.openai.envelope import EARLIEST_DEADLINE_MS, PRIORITY_LIMIT

_LATEST_DEADLINE_MS = 1 << 53


async def read_ask(request: Request, kind: RequestKind, *, body_limit_bytes: int) -> Ask:
    """Raises `BodyTooLarge`, `InvalidRequest`, or `RequestCancelled` when the client hung up meanwhile."""
    headers = request.headers
    return Ask(
        body=await _read_body(request, body_limit_bytes),
        kind=kind,
        authorization=headers.get("authorization"),
        idempotency_key=headers.get("idempotency-key"),
        deadline_ms=_whole_number(
            headers.get(names_of.DEADLINE_MS),
            names_of.DEADLINE_MS,
            EARLIEST_DEADLINE_MS,
            _LATEST_DEADLINE_MS,
        ),
        priority=_whole_number(headers.get(names_of.PRIORITY), names_of.PRIORITY, -PRIORITY_LIMIT, PRIORITY_LIMIT) or 0,
        is_kept=_prefers_async(headers.get("prefer")),
        trace_context=exchange_of(request.scope).trace_context,
        lane=_lane(headers.get(names_of.LANE)),
        response_headers=exchange_of(request.scope).headers,
    )


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise RequestCancelled("the client disconnected before its request was read") from None
    return b"".join(parts)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit_bytes} bytes")


def _whole_number(text: str | None, header: str, low: int, high: int) -> int | None:
    if text is None:
        return None
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and low <= int(text) <= high):
        raise InvalidRequest(f"Header {header} must be a whole number from {low} to {high}", param=header)
    return int(text)


def _lane(text: str | None) -> Lane:
    try:
        return Lane.INTERACTIVE if text is None else Lane(text.strip().lower())
    except ValueError:
        raise InvalidRequest(f"Header {names_of.LANE} must be interactive or bulk", param=names_of.LANE) from None


def _prefers_async(prefer: str | None) -> bool:
    return any(part.strip().lower() == "respond-async" for part in (prefer or "").split(","))
