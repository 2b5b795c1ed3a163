"""The part of Jaeger's query API that the status page uses, answered from the laptop's span store.

`GET /api/traces?tags={"penstock.request.id": ID}`; everything else that Jaeger can be asked is not here.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from services.cli.embedded.stored_span import REQUEST_ID_ATTRIBUTE, StoredSpan

PATH = b"/api/traces"


def asked_request_id(query: bytes) -> str | None:
    """None when the question is about anything but one request."""
    try:
        (tags,) = parse_qs(query.decode())["tags"]
        asked = json.loads(tags)
    except (KeyError, ValueError):
        return None
    return (
        str(asked[REQUEST_ID_ATTRIBUTE]) if isinstance(asked, dict) and set(asked) == {REQUEST_ID_ATTRIBUTE} else None
    )


def answer(spans: Sequence[StoredSpan]) -> bytes:
    return json.dumps({"data": [_trace(spans)] if spans else []}).encode()


def _trace(spans: Sequence[StoredSpan]) -> dict[str, Any]:
    instances = {(span.service, span.instance): "" for span in spans}
    process_ids = {key: f"p{number}" for number, key in enumerate(instances)}
    return {
        "traceID": spans[0].trace_id,
        "spans": [_span(span, process_ids[span.service, span.instance]) for span in spans],
        "processes": {
            process_id: {"serviceName": service, "tags": [{"key": "service.instance.id", "value": instance}]}
            for (service, instance), process_id in process_ids.items()
        },
    }


def _span(span: StoredSpan, process_id: str) -> dict[str, Any]:
    parent = [{"refType": "CHILD_OF", "traceID": span.trace_id, "spanID": span.parent_id}] if span.parent_id else []
    failed = [{"key": "error", "value": True}] if span.status == "error" else []
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": parent,
        "startTime": span.start_ns // 1_000,
        "duration": max(0, span.end_ns - span.start_ns) // 1_000,
        "tags": failed + [{"key": key, "value": value} for key, value in span.attributes.items()],
        "processID": process_id,
    }
