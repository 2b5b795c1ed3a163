"""A trace from Jaeger's answer to rows: order, depth, times, and what is asked."""

import json
from typing import Any

import httpx
import pytest

from services.supervisor.request_traces import RequestTraces, TracesUnavailable, rows_of

PROCESSES = {"p1": {"serviceName": "worker", "tags": [{"key": "service.instance.id", "value": "host-1"}]}}


def span(name: str, *, parent: str = "", start: int = 100, took: int = 10, **tags: Any) -> dict[str, Any]:
    references = [{"refType": "CHILD_OF", "spanID": parent}] if parent else []
    return {
        "spanID": name,
        "operationName": name,
        "references": references,
        "startTime": start,
        "duration": took,
        "tags": [{"key": key.replace("__", "."), "value": value} for key, value in tags.items()],
        "processID": "p1",
    }


class JaegerAnswers:
    """By the service that is asked for."""

    def __init__(self, **spans: list[dict[str, Any]]) -> None:
        self._spans = spans
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        found = self._spans.get(request.url.params["service"], [])
        return httpx.Response(200, json={"data": [{"spans": found, "processes": PROCESSES}] if found else []})


def traces(answers: Any) -> RequestTraces:
    return RequestTraces("http://jaeger", transport=httpx.MockTransport(answers))


def test_children_come_below_their_parent_by_their_start() -> None:
    found = [span("late", parent="root", start=150), span("root", took=90), span("early", parent="root", start=110)]
    rows = rows_of({"spans": found, "processes": PROCESSES})
    assert [(row.name, row.depth, row.offset_us) for row in rows] == [("root", 0, 0), ("early", 1, 10), ("late", 1, 50)]


def test_a_span_whose_parent_is_missing_or_itself_is_a_root() -> None:
    found = [span("orphan", parent="killed"), span("odd", parent="odd", start=101)]
    assert [row.depth for row in rows_of({"spans": found, "processes": PROCESSES})] == [0, 0]


def test_a_row_names_the_worker_the_attempt_and_the_error() -> None:
    found = [span("process", penstock__worker__id="w-1", penstock__attempt=2, error=True)]
    (row,) = rows_of({"spans": found, "processes": PROCESSES})
    assert (row.instance, row.attempt, row.is_error) == ("w-1", 2, True)


async def test_an_openai_id_is_asked_for_without_its_prefix() -> None:
    answers = JaegerAnswers(worker=[span("a")])
    await traces(answers).rows("chatcmpl-abc")
    assert json.loads(answers.asked[0]["tags"]) == {"penstock.request.id": "abc"}


async def test_a_request_that_no_worker_saw_is_found_by_the_gateways_spans() -> None:
    assert [row.name for row in await traces(JaegerAnswers(gateway=[span("refused")])).rows("abc")] == ["refused"]


async def test_what_cannot_be_an_id_is_not_asked_for() -> None:
    answers = JaegerAnswers(worker=[span("a")])
    assert await traces(answers).rows('abc"} or {"') == []
    assert answers.asked == []


@pytest.mark.parametrize(
    "response", [httpx.Response(500), httpx.Response(200, text="<html>"), httpx.Response(200, json={})]
)
async def test_an_answer_that_is_none_is_told(response: httpx.Response) -> None:
    with pytest.raises(TracesUnavailable, match="Jaeger"):
        await traces(lambda request: response).rows("abc")
