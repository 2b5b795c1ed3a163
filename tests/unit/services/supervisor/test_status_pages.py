"""The page's files, their content policy, and what is said about one request."""

import httpx
import pytest
from fastapi import FastAPI

from services.supervisor.request_traces import RequestTraces
from services.supervisor.status_pages import add_status_page
from tests.unit.services.supervisor.test_request_traces import JaegerAnswers, span


async def get(path: str, traces: RequestTraces | None = None) -> httpx.Response:
    application = FastAPI()
    add_status_page(application, traces or RequestTraces(None))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://supervisor") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/status/page.js", "text/javascript"), ("/status/page.css", "text/css")]
)
async def test_a_part_of_the_page_is_served_with_a_policy_that_allows_only_its_own_script(path: str, kind: str) -> None:
    response = await get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert "default-src 'self'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/status/settings.py", "/status/..%2Fsettings.py", "/status/index.html"])
async def test_nothing_but_the_pages_parts_is_served(path: str) -> None:
    assert (await get(path)).status_code == 404


async def test_a_requests_spans_are_told() -> None:
    traces = RequestTraces("http://jaeger", transport=httpx.MockTransport(JaegerAnswers(worker=[span("a")])))
    response = await get("/requests/abc/trace", traces)
    assert [row["name"] for row in response.json()["spans"]] == ["a"]


async def test_an_unknown_request_and_a_missing_jaeger_are_told_apart() -> None:
    unknown = RequestTraces("http://jaeger", transport=httpx.MockTransport(JaegerAnswers()))
    assert (await get("/requests/abc/trace", unknown)).status_code == 404
    missing = await get("/requests/abc/trace")
    assert missing.status_code == 503
    assert "PENSTOCK_SUPERVISOR_JAEGER_URL" in missing.json()["error"]
