"""The lines of OpenAI's Batch file format, in and out. Pure: no files, no engine.

Each input line is answered by one output line; what is wrong with it is said there, by the field's name.
"""

import json
from dataclasses import dataclass
from typing import Any

from shared.contracts.errors import Blame, InvalidRequest, PlatformError, PoisonMessage, UnknownModel, error_classes
from shared.contracts.events import ErrorBody
from shared.contracts.identifiers import RequestId, body_fingerprint
from shared.contracts.requests import InferenceRequest, RequestKind
from shared.openai.outcomes import error_object, outcome_error
from shared.openai.requests import parse_request

_KINDS = {
    "/v1/chat/completions": RequestKind.CHAT,
    "/v1/completions": RequestKind.COMPLETION,
}
_FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """One line, read. Exactly one of `request` and `error` is set; `custom_id` None where none could be read."""

    request_id: RequestId
    custom_id: str | None
    request: InferenceRequest | None = None
    error: ErrorBody | None = None


def line_request_id(number: int, line: bytes) -> RequestId:
    """The same line at the same place has the same id, and with it the same default seed."""
    return RequestId(body_fingerprint(number.to_bytes(8, "big") + line))


def read_line(number: int, line: bytes) -> BatchLine:
    """`number` counts from 1."""
    request_id = line_request_id(number, line)
    custom_id = None
    try:
        fields = _object_of(line)
        custom_id = _custom_id(fields)
        return BatchLine(request_id=request_id, custom_id=custom_id, request=_request(fields))
    except PlatformError as error:
        return BatchLine(request_id=request_id, custom_id=custom_id, error=outcome_error(error))


def _object_of(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The line is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("The line is JSON but not an object.")
    return fields


def _custom_id(fields: dict[str, Any]) -> str:
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise InvalidRequest("custom_id must be a string that is not empty.", param="custom_id")
    return custom_id


def _request(fields: dict[str, Any]) -> InferenceRequest:
    for name in fields:
        if name not in _FIELDS:
            raise InvalidRequest(f"Unknown field: {name}.", param=name)
    if fields.get("method") != "POST":
        raise InvalidRequest("method must be POST.", param="method")
    url, body = fields.get("url"), fields.get("body")
    kind = _KINDS.get(url) if isinstance(url, str) else None
    if kind is None:
        raise InvalidRequest(f"url must be one of {', '.join(_KINDS)}.", param="url")
    if not isinstance(body, dict):
        raise InvalidRequest("body must be an object.", param="body")
    try:
        request = parse_request(json.dumps(body).encode(), kind=kind)
    except PoisonMessage as error:
        raise InvalidRequest(error.message, param="body") from error
    if request.stream:
        raise InvalidRequest("A batch is not streamed: stream must be false.", param="stream")
    return request


def http_status(error: ErrorBody) -> int:
    """What the gateway would answer, as far as a batch can fail."""
    if error.code == UnknownModel.code:
        return 404
    error_class = error_classes().get(error.code)
    return 400 if error_class is not None and error_class.blame is Blame.CALLER else 500


def write_answer(line: BatchLine, body: bytes) -> bytes:
    """The output line of a request that ran; `body` is the rendered response object."""
    return _output_line(line, status_code=200, body=json.loads(body), error=None)


def write_failure(line: BatchLine, error: ErrorBody) -> bytes:
    """The error stands in both places where clients look: the response's body and the line itself."""
    body = error_object(error)
    return _output_line(line, status_code=http_status(error), body=body, error=body["error"])


def _output_line(line: BatchLine, *, status_code: int, body: dict[str, Any], error: dict[str, Any] | None) -> bytes:
    fields = {
        "id": f"batch_req_{line.request_id}",
        "custom_id": line.custom_id,
        "response": {"status_code": status_code, "request_id": line.request_id, "body": body},
        "error": error,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
