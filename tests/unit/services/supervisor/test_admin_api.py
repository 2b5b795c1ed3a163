import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from services.supervisor.admin_api import Knowledge, NoSuchWorker, NotTheLeader, build_admin_api, render_fleet
from services.supervisor.autoscaling import Bounds
from services.supervisor.failure_detector import DetectionRules
from services.supervisor.fleet_watch import FleetWatch
from services.supervisor.leadership import Leadership
from services.supervisor.policy_desk import PolicyDesk
from services.supervisor.policy_rules import PolicyRules
from shared.contracts.fleet import FleetCommandKind, FleetEventKind, ServiceLevelCount
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.resilience.clock import ManualClock
from shared.settings.slo import SloSettings
from tests.unit.services.supervisor.builders import heartbeat
from tests.unit.services.supervisor.test_leadership import Ballot


def a_desk(clock: ManualClock) -> PolicyDesk:
    rules = PolicyRules(bounds={"default": Bounds(least=1, most=4)})
    return PolicyDesk(rules, objectives=SloSettings(), name="here", clock=clock, note=lambda *_: None)


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
        desk=a_desk(clock),
        order=lambda kind, worker, reason: None,
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
    unready = replace(knowledge, problems=lambda: ["Kafka is not connected yet"])
    response = await get(unready, "/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "problems": ["Kafka is not connected yet"]}
    assert (await get(unready, "/livez")).status_code == 200


async def test_metrics_are_served_without_a_redirect(knowledge: Knowledge) -> None:
    response = await get(knowledge, "/metrics")
    assert response.status_code == 200
    assert "penstock_supervisor_is_leader" in response.text


async def post(knowledge: Knowledge, path: str, *, key: str | None = None, host: str = "127.0.0.1") -> httpx.Response:
    transport = httpx.ASGITransport(build_admin_api(knowledge), client=(host, 1))
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://supervisor", headers=headers) as client:
        return await client.post(path)


class Orders:
    def __init__(self, error: Exception | None = None) -> None:
        self.given: list[Any] = []
        self.error = error

    def __call__(self, kind: FleetCommandKind, worker_id: WorkerId, reason: str) -> None:
        if self.error is not None:
            raise self.error
        self.given.append((kind, worker_id, reason))


@pytest.mark.parametrize("kind", FleetCommandKind)
async def test_an_order_is_passed_on_with_its_reason(knowledge: Knowledge, kind: FleetCommandKind) -> None:
    orders = Orders()
    response = await post(replace(knowledge, order=orders), f"/workers/w-0/{kind}?reason=too+hot")
    assert response.status_code == 202
    assert orders.given == [(kind, "w-0", "too hot")]


async def test_without_a_key_orders_come_from_this_machine_only(knowledge: Knowledge) -> None:
    orders = Orders()
    response = await post(replace(knowledge, order=orders), "/workers/w-0/drain", host="10.0.0.7")
    assert (response.status_code, orders.given) == (403, [])


async def test_with_a_key_it_has_to_be_the_right_one_wherever_the_order_comes_from(knowledge: Knowledge) -> None:
    orders = Orders()
    guarded = replace(knowledge, order=orders, admin_key="secret")
    for key in (None, "wrong", ""):
        assert (await post(guarded, "/workers/w-0/drain", key=key)).status_code == 403
    assert orders.given == []
    assert (await post(guarded, "/workers/w-0/drain", key="secret", host="10.0.0.7")).status_code == 202


@pytest.mark.parametrize(("error", "status"), [(NoSuchWorker("no"), 404), (NotTheLeader("no"), 409)])
async def test_an_order_that_cannot_be_carried_out_says_so(knowledge: Knowledge, error: Exception, status: int) -> None:
    assert (await post(replace(knowledge, order=Orders(error)), "/workers/w-0/drain")).status_code == status
    assert (await post(knowledge, "/workers/w-0/explode")).status_code == 404


async def test_the_scaling_page_is_what_an_external_scaler_reads(knowledge: Knowledge) -> None:
    assert (await get(knowledge, "/scaling/default")).status_code == 404
    knowledge.watch.hear(heartbeat())
    knowledge.desk.scale(knowledge.watch.view, {})
    page = (await get(knowledge, "/scaling/default")).json()
    assert (page["desired_workers"], page["least"], page["most"], page["workers"]) == (1, 1, 4, 1)
    assert (await get(knowledge, "/scaling")).json() == {"default": page}


async def test_the_objectives_page_shows_budget_burn_and_alert(knowledge: Knowledge) -> None:
    count = ServiceLevelCount(lane="interactive", tenant="acme", requests=1_000, failed=100)
    knowledge.desk.hear(heartbeat(service_levels=(count,)))
    objectives = (await get(knowledge, "/slo")).json()["objectives"]
    assert {objective["tenant"] for objective in objectives} == {"acme", "*"}
    first = objectives[0]
    assert (first["objective"], first["alert"], first["burn"]["5m"]) == ("availability", "page", 100.0)


async def test_a_worker_is_shown_with_its_standing_and_suspicion(knowledge: Knowledge) -> None:
    knowledge.watch.hear(heartbeat())
    knowledge.desk.quarantine.order(WorkerId("w-0"), Incarnation("w-0.a"), is_quarantined=True, now=0.0)
    (worker,) = render_fleet(knowledge)["workers"]
    assert (worker["standing"], worker["phi"]) == ("quarantined", 0.0)


async def test_breakers_of_pools_and_workers_are_shown_open_ones_first(knowledge: Knowledge) -> None:
    for worker in ("w-1", "w-2"):
        knowledge.watch.hear(heartbeat(worker))
    event = knowledge.watch.recent_events[-1]
    failure = replace(event, kind=FleetEventKind.WORKER_LOST, worker_id=WorkerId("w-2"))
    knowledge.watch.crash_loops.saw([failure] * 5, knowledge.watch.view)
    breakers = (await get(knowledge, "/fleet")).json()["breakers"]
    assert [(breaker["kind"], breaker["name"], breaker["state"]) for breaker in breakers] == [
        ("worker", "w-2", "open"),
        ("pool", "default", "closed"),
        ("worker", "w-1", "closed"),
    ]
