"""One request as JSON: where it stands and, at its end, its result. Rendering only."""

from typing import Any

import msgspec

from shared.ledger.records import RequestRecord, RequestState
from shared.openai.outcomes import sealed_json

_WAITING = "waiting"


def location_of(request_id: str) -> str:
    return f"/v1/requests/{request_id}"


def render_accepted(request_id: str) -> bytes:
    return msgspec.json.encode({"id": request_id, "object": "inference.request", "state": _WAITING, "result": None})


def render_status(record: RequestRecord) -> bytes:
    """The result appears with the terminal, never before: until `finished` it may not be published."""
    is_finished = record.state is RequestState.FINISHED
    sealed = record.sealed if is_finished else None
    fields: dict[str, Any] = {
        "id": record.request_id,
        "object": "inference.request",
        "state": record.state.value,
        "outcome": None if sealed is None else sealed.outcome.value,
        "pool": record.pool,
        "lane": record.lane.value,
        "tenant": record.tenant,
        "created": record.registered_at_ms // 1_000,
        "deadline_ms": record.deadline_ms,
        "attempts": record.attempts,
        "cancel_reason": record.cancel_reason,
        "result": None if sealed is None else msgspec.Raw(sealed_json(sealed)),
    }
    return msgspec.json.encode(fields)
