"""Health endpoints: readiness names every reason, liveness none."""

import asyncio
import json
from dataclasses import replace

import pytest

from services.worker.health import HealthServer, Readiness

GOOD = Readiness(
    is_engine_ready=True,
    is_draining=False,
    num_partitions=3,
    last_poll_age_seconds=0.1,
    oldest_unfinished_age_seconds=1.0,
    max_unfinished_age_seconds=60.0,
)


def respond(readiness: Readiness, request: bytes = b"GET /readyz HTTP/1.1\r\n\r\n") -> tuple[int, bytes]:
    head, _, body = HealthServer("127.0.0.1", 0, lambda: readiness).respond(request).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head or request.startswith(b"HEAD")
    return int(head.split()[1]), body


def test_a_healthy_worker_is_ready() -> None:
    status, body = respond(GOOD)
    assert status == 200
    assert json.loads(body) == {"ready": True, "problems": []}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_engine_ready": False}, "engine"),
        ({"is_draining": True}, "draining"),
        ({"num_partitions": 0}, "partition"),
        ({"last_poll_age_seconds": 30.0}, "polled"),
        ({"oldest_unfinished_age_seconds": 61.0}, "unfinished"),
    ],
)
def test_each_reason_alone_makes_it_unready_and_is_named(change: dict[str, object], reason: str) -> None:
    status, body = respond(replace(GOOD, **change))
    assert status == 503
    (problem,) = json.loads(body)["problems"]
    assert reason in problem


def test_it_is_alive_whatever_else_is_wrong() -> None:
    broken = replace(GOOD, is_engine_ready=False, num_partitions=0)
    assert respond(broken, b"GET /livez HTTP/1.1\r\n\r\n")[0] == 200


def test_metrics_are_rendered_and_a_query_is_ignored() -> None:
    status, body = respond(GOOD, b"GET /metrics?x=1 HTTP/1.1\r\n\r\n")
    assert status == 200
    assert b"penstock_results_total" in body


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /livez HTTP/1.1", 405),
        (b"GET /secrets HTTP/1.1", 404),
        (b"garbage", 405),
        (b"HEAD /livez HTTP/1.1", 200),
    ],
)
def test_other_requests_get_a_plain_answer(request_line: bytes, status: int) -> None:
    assert respond(GOOD, request_line + b"\r\n\r\n")[0] == status


async def test_the_server_answers_on_a_free_port_and_survives_a_rude_client() -> None:
    async with HealthServer("127.0.0.1", 0, lambda: GOOD) as server:
        _, rude = await asyncio.open_connection("127.0.0.1", server.port)
        rude.write(b"GET /live")
        rude.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()


def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: w\r\naccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
    _, body = respond(GOOD, request)
    assert body.endswith(b"# EOF\n")
    _, plain = respond(GOOD, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert not plain.endswith(b"# EOF\n")
