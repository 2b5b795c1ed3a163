import json

import httpx
import pytest

from services.supervisor.admin_api import Knowledge, build_admin_api, render_fleet
from services.supervisor.failure_detector import DetectionRules
from services.supervisor.fleet_watch import FleetWatch
from services.supervisor.leadership import Leadership
from shared.contracts.identifiers import Incarnation
from shared.resilience.clock import ManualClock
from tests.unit.services.supervisor.builders import heartbeat
from tests.unit.services.supervisor.test_leadership import Ballot


@pytest.fixture
def knowledge() -> Knowledge:
    clock = ManualClock()
    return Knowledge(
        name="here",
        watch=FleetWatch(
            clock=clock,
            rules=DetectionRules(),
            kept_events=10,
            forget_after_seconds=60,
        ),
        leadership=Leadership(Ballot(clock), ttl_ms=1_000, clock=clock),
        clock=clock,
        problems=list,
    )


async def get(knowledge: Knowledge, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(build_admin_api(knowledge))
    async with httpx.AsyncClient(transport=transport, base_url="http://supervisor") as client:
        return await client.get(path)


async def test_workers_are_shown_by_name_with_every_field_of_their_heartbeat(knowledge: Knowledge) -> None:
    for worker in ("w-2", "w-1"):
        knowledge.watch.hear(heartbeat(worker))
    knowledge.clock.move(1.25)  # type: ignore[attr-defined]
    fleet = (await get(knowledge, "/fleet")).json()
    assert [worker["worker_id"] for worker in fleet["workers"]] == ["w-1", "w-2"]
    first = fleet["workers"][0]
    assert set(heartbeat().__slots__) <= set(first)
    assert (first["state"], first["age_seconds"], first["lease"]) == ("ready", 1.25, "held")
    assert first["breaker"] == "closed"
    assert fleet["pools"] == {"default": {"ready": 2}}


async def test_a_lost_worker_is_shown_with_the_reason(knowledge: Knowledge) -> None:
    knowledge.watch.hear(heartbeat())
    knowledge.watch.judge([Incarnation("w-0.a")])
    (worker,) = render_fleet(knowledge)["workers"]
    assert (worker["state"], worker["lease"]) == ("lost", "missing")
    assert worker["reason"] == "its lease ended while it owned requests"


async def test_the_latest_event_comes_first(knowledge: Knowledge) -> None:
    knowledge.watch.hear(heartbeat())
    assert [event["kind"] for event in render_fleet(knowledge)["events"]] == ["worker-ready", "worker-joined"]


async def test_the_page_says_who_leads(knowledge: Knowledge) -> None:
    assert render_fleet(knowledge)["is_leader"] is False
    await knowledge.leadership.campaign()
    page = render_fleet(knowledge)
    assert (page["supervisor"], page["is_leader"], page["leader_fence"]) == ("here", True, 1)
    json.dumps(page)


async def test_a_supervisor_without_problems_is_ready(knowledge: Knowledge) -> None:
    response = await get(knowledge, "/readyz")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "problems": []}


async def test_an_unready_supervisor_answers_503_and_lives(knowledge: Knowledge) -> None:
    unready = Knowledge(
        name="here",
        watch=knowledge.watch,
        leadership=knowledge.leadership,
        clock=knowledge.clock,
        problems=lambda: ["Kafka is not connected yet"],
    )
    response = await get(unready, "/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "problems": ["Kafka is not connected yet"]}
    assert (await get(unready, "/livez")).status_code == 200


async def test_metrics_are_served_without_a_redirect(knowledge: Knowledge) -> None:
    response = await get(knowledge, "/metrics")
    assert response.status_code == 200
    assert "penstock_supervisor_is_leader" in response.text
