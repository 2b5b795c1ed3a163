"""One request's spans from Jaeger's query API, as rows of a waterfall. Refuses to know how they are drawn."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from shared.telemetry import spans

_PREFIX = re.compile(r"^(chatcmpl|cmpl)-")
_REQUEST_ID = re.compile(r"[0-9A-Za-z_.:-]{1,200}")
_SERVICES = ("worker", "gateway")
"""In whose spans a request is looked for; one that was refused early has only the gateway's."""
_TIMEOUT_SECONDS = 3.0
_LOOKBACK = "48h"
_MOST_ROWS = 500


class TracesUnavailable(Exception):
    """Nobody can be asked, or who was asked did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One span: how deep it lies in its tree, and when, in microseconds from the trace's beginning."""

    name: str
    service: str
    instance: str
    depth: int
    offset_us: int
    duration_us: int
    is_error: bool
    attempt: int | None = None
    outcome: str | None = None


class RequestTraces:
    def __init__(self, jaeger_url: str | None, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = jaeger_url
        self._transport = transport

    async def rows(self, request_id: str) -> list[Row]:
        """Empty when no such request is known. Raises `TracesUnavailable`."""
        if self._url is None:
            raise TracesUnavailable("no Jaeger is named: set PENSTOCK_SUPERVISOR_JAEGER_URL")
        bare = _PREFIX.sub("", request_id)
        if not _REQUEST_ID.fullmatch(bare):
            return []
        async with httpx.AsyncClient(base_url=self._url, timeout=_TIMEOUT_SECONDS, transport=self._transport) as client:
            for service in _SERVICES:
                if trace := await _ask(client, service, bare):
                    return rows_of(trace)
        return []


async def _ask(client: httpx.AsyncClient, service: str, request_id: str) -> Mapping[str, Any] | None:
    tags = json.dumps({spans.REQUEST_ID: request_id})
    try:
        response = await client.get(
            "/api/traces", params={"service": service, "tags": tags, "lookback": _LOOKBACK, "limit": 1}
        )
        response.raise_for_status()
        found = response.json()["data"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise TracesUnavailable(f"Jaeger does not answer: {error}") from None
    return found[0] if found else None


def rows_of(trace: Mapping[str, Any]) -> list[Row]:
    """Depth first, children by their start; a span whose parent is missing is a root."""
    found = sorted(trace["spans"], key=lambda span: (span["startTime"], -span["duration"]))[:_MOST_ROWS]
    if not found:
        return []
    ids = {span["spanID"] for span in found}
    children: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for span in found:
        parent = _parent(span)
        children[parent if parent in ids and parent != span["spanID"] else ""].append(span)
    started = found[0]["startTime"]
    return [_row(span, depth, started, trace["processes"]) for span, depth in _walk(children)]


def _walk(children: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    stack = [(span, 0) for span in reversed(children.get("", ()))]
    while stack:
        span, depth = stack.pop()
        yield span, depth
        stack.extend((child, depth + 1) for child in reversed(children.get(span["spanID"], ())))


def _parent(span: Mapping[str, Any]) -> str:
    return next((str(ref["spanID"]) for ref in span["references"] if ref["refType"] == "CHILD_OF"), "")


def _row(span: Mapping[str, Any], depth: int, started: int, processes: Mapping[str, Any]) -> Row:
    tags = {tag["key"]: tag["value"] for tag in span["tags"]}
    process = processes[span["processID"]]
    instance = {tag["key"]: tag["value"] for tag in process.get("tags", ())}.get("service.instance.id", "")
    return Row(
        name=span["operationName"],
        service=process["serviceName"],
        instance=str(tags.get(spans.WORKER_ID, instance)),
        depth=depth,
        offset_us=span["startTime"] - started,
        duration_us=span["duration"],
        is_error=bool(tags.get("error")),
        attempt=tags.get(spans.ATTEMPT),
        outcome=tags.get(spans.OUTCOME),
    )
