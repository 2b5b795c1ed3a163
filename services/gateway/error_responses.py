"""What each error looks like over HTTP: status, OpenAI's error object, and the headers that steer retries.

The table names every code of `shared.contracts.errors` (a test proves it); nothing else here decides a status.
"""

import math

import msgspec
from starlette.responses import Response

from shared.contracts.errors import CapacityError, PlatformError, Retry, error_classes, error_type
from shared.contracts.events import ErrorBody

HTTP_STATUS: dict[str, int] = {
    "platform_error": 500,
    "request_error": 400,
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "invalid_api_key": 401,
    "forbidden": 403,
    "body_too_large": 413,
    "request_not_found": 404,
    "idempotency_conflict": 422,
    "over_capacity": 503,
    "rate_limit_exceeded": 429,
    "queue_full": 503,
    "no_worker_ready": 503,
    "engine_saturated": 503,
    "temporarily_unavailable": 503,
    "broker_unavailable": 503,
    "ledger_unavailable": 503,
    "worker_lost": 503,
    "worker_draining": 503,
    "engine_failed": 503,
    "deadline_exceeded": 504,
    "request_cancelled": 499,
    "poison_message": 400,
    "unsupported_schema_version": 500,
    "outcome_too_large": 400,
    "internal_error": 500,
}
"""Status by public code. 499 is the de-facto status of a request that its own client ended."""

_TRANSIENT_RETRY_SECONDS = 1.0
_UNKNOWN_URL = "unknown_url"
_METHOD_NOT_ALLOWED = "method_not_allowed"


def status_of(code: str) -> int:
    """The status of a sealed error; a code from a newer worker is our side's fault until proven otherwise."""
    return HTTP_STATUS.get(code, 500)


def error_body(error: PlatformError) -> ErrorBody:
    return ErrorBody(
        message=error.message, type=error_type(error.blame, error.code), code=error.code, param=error.param
    )


def render_error(body: ErrorBody) -> bytes:
    """OpenAI's error object."""
    return msgspec.json.encode(
        {"error": {"message": body.message, "type": body.type, "param": body.param, "code": body.code}}
    )


def retry_headers(code: str, retry_after_seconds: float | None = None) -> dict[str, str]:
    """`Retry-After` for people and proxies, `retry-after-ms` and `x-should-retry` for OpenAI's client."""
    error = error_classes().get(code, PlatformError)
    if error.retry is Retry.NEVER:
        return {"x-should-retry": "false"}
    seconds = _TRANSIENT_RETRY_SECONDS if retry_after_seconds is None else retry_after_seconds
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, math.ceil(seconds * 1_000))),
        "x-should-retry": "true",
    }


def error_response(error: PlatformError) -> Response:
    seconds = error.retry_after_seconds if isinstance(error, CapacityError) else None
    headers = retry_headers(error.code, seconds)
    if error.code == "invalid_api_key":
        headers["www-authenticate"] = "Bearer"
    return json_response(render_error(error_body(error)), status=status_of(error.code), headers=headers)


def sealed_error_response(value: bytes) -> Response:
    """The response to a sealed outcome that is an error: its exact bytes, the status of its code."""
    code = sealed_error_code(value)
    return json_response(value, status=status_of(code), headers=retry_headers(code))


def sealed_error_code(value: bytes) -> str:
    try:
        code = msgspec.json.decode(value)["error"]["code"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return PlatformError.code
    return code if isinstance(code, str) else PlatformError.code


def routing_error_response(status: int, *, method: str, path: str, headers: dict[str, str]) -> Response:
    """An unknown route (404) or a method that a route does not have (405)."""
    if status == 405:
        message, code = f"{path} does not answer {method}", _METHOD_NOT_ALLOWED
    else:
        message, code = f"unknown URL: {method} {path}", _UNKNOWN_URL
    body = render_error(ErrorBody(message=message, type="invalid_request_error", code=code))
    return json_response(body, status=status, headers={"x-should-retry": "false", **headers})


def json_response(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status_code=status, headers=headers, media_type="application/json")
