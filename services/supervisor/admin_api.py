"""`GET /fleet`, `/slo`, `/scaling`, `/livez`, `/readyz`, `/metrics`, `POST /workers/{name}/{order}`, and a page.

Renders what the supervisor knows and passes orders on; decides nothing. Orders need the admin key; without one they
are taken from this machine only.
"""

import hmac
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.routing import Route

from services.supervisor.fleet import FleetView, Member
from services.supervisor.fleet_watch import FleetWatch
from services.supervisor.leadership import Leadership
from services.supervisor.policy_desk import PolicyDesk
from services.supervisor.request_traces import RequestTraces
from services.supervisor.service_levels import worst_first
from services.supervisor.status_pages import add_status_page
from shared.contracts.fleet import FleetCommandKind, FleetEvent
from shared.contracts.identifiers import WorkerId
from shared.resilience.clock import Clock
from shared.telemetry.metrics_http import MetricsEndpoint

_THIS_MACHINE = frozenset({"127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the pages are made of."""

    name: str
    watch: FleetWatch
    leadership: Leadership
    clock: Clock
    problems: Callable[[], list[str]]
    """Why the supervisor is not ready; empty when it is."""
    desk: PolicyDesk
    order: Callable[[FleetCommandKind, WorkerId, str], None]
    """Raises `NotTheLeader` or `NoSuchWorker`."""
    admin_key: str | None = None
    traces: RequestTraces = field(default_factory=lambda: RequestTraces(None))


class NotTheLeader(Exception):
    """Orders are for the supervisor that acts."""


class NoSuchWorker(Exception):
    """Nobody of that name is alive."""


def build_admin_api(knowledge: Knowledge) -> FastAPI:
    application = FastAPI(title="Penstock supervisor", docs_url=None, redoc_url=None)
    application.router.routes.append(Route("/metrics", MetricsEndpoint()))
    add_status_page(application, knowledge.traces)

    @application.get("/fleet")
    async def fleet() -> JSONResponse:
        return JSONResponse(render_fleet(knowledge))

    @application.get("/slo")
    async def slo() -> JSONResponse:
        return JSONResponse(render_service_levels(knowledge))

    @application.get("/scaling")
    async def scaling() -> JSONResponse:
        return JSONResponse({pool: render_scaling(knowledge, pool) for pool in knowledge.desk.scaling})

    @application.get("/scaling/{pool}")
    async def scaling_of(pool: str) -> JSONResponse:
        """For KEDA's metrics-api scaler: `valueLocation: desired_workers`, `targetValue: 1`."""
        if pool not in knowledge.desk.scaling:
            return JSONResponse({"error": f"the pool {pool} is not scaled"}, status_code=404)
        return JSONResponse(render_scaling(knowledge, pool))

    @application.post("/workers/{worker}/{order}")
    async def order(request: Request, worker: str, order: str) -> JSONResponse:
        if not may_order(knowledge.admin_key, request):
            return JSONResponse({"error": "the admin key is missing or wrong"}, status_code=403)
        if order not in set(FleetCommandKind):
            return JSONResponse({"error": "an order is drain, resume or quarantine"}, status_code=404)
        reason = request.query_params.get("reason", "an operator asked")
        try:
            knowledge.order(FleetCommandKind(order), WorkerId(worker), reason)
        except NoSuchWorker as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        except NotTheLeader as error:
            return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({"worker": worker, "order": order}, status_code=202)

    @application.get("/livez")
    async def livez() -> JSONResponse:
        return JSONResponse({"alive": True})

    @application.get("/readyz")
    async def readyz() -> JSONResponse:
        problems = knowledge.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, status_code=503 if problems else 200)

    return application


def render_fleet(knowledge: Knowledge) -> dict[str, Any]:
    """The answer of `GET /fleet`. Workers in order of name, events with the latest first."""
    watch, leadership = knowledge.watch, knowledge.leadership
    now = knowledge.clock.monotonic()
    members = sorted(watch.view.members.values(), key=lambda member: member.heartbeat.worker_id)
    return {
        "supervisor": knowledge.name,
        "is_leader": leadership.is_leader,
        "leader_fence": leadership.fence,
        "at_ms": knowledge.clock.now_ms(),
        "pools": _pools(watch.view),
        "workers": [_worker(knowledge, member, now) for member in members],
        "breakers": _breakers(watch),
        "events": [_event(event) for event in reversed(watch.recent_events)],
    }


def may_order(admin_key: str | None, request: Request) -> bool:
    """With a key: `Authorization: Bearer KEY`. Without: from this machine."""
    if admin_key is None:
        return request.client is not None and request.client.host in _THIS_MACHINE
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(presented.strip().encode(), admin_key.encode())


def render_service_levels(knowledge: Knowledge) -> dict[str, Any]:
    reports = worst_first(knowledge.desk.book.reports(now=knowledge.clock.monotonic()))
    return {
        "at_ms": knowledge.clock.now_ms(),
        "objectives": [
            {
                "lane": report.lane,
                "tenant": report.tenant,
                "objective": report.level.value,
                "target": report.target,
                "events": report.events,
                "bad": report.bad,
                "budget_left": round(report.budget_left, 4),
                "burn": {f"{seconds // 60}m": round(burn, 2) for seconds, burn in report.burn.items()},
                "alert": report.alert,
            }
            for report in reports
        ],
    }


def render_scaling(knowledge: Knowledge, pool: str) -> dict[str, Any]:
    desk = knowledge.desk
    state, load, bounds = desk.scaling[pool], desk.loads[pool], desk.bounds[pool]
    return {
        "desired_workers": state.desired,
        "reason": state.reason,
        "least": bounds.least,
        "most": bounds.most,
        **asdict(load),
    }


def _worker(knowledge: Knowledge, member: Member, now: float) -> dict[str, Any]:
    heartbeat, watch, desk = member.heartbeat, knowledge.watch, knowledge.desk
    return {
        **asdict(heartbeat),
        "state": member.state.value,
        "reason": member.reason,
        "age_seconds": round(now - member.heard_at, 3),
        "joined_seconds_ago": round(now - member.joined_at, 3),
        "lease": "missing" if heartbeat.incarnation in watch.leaseless else "held",
        "breaker": watch.crash_loops.state_of(heartbeat.worker_id).value,
        "standing": desk.quarantine.standing_of(heartbeat.worker_id).value,
        "phi": round(desk.phi(heartbeat.incarnation), 1),
    }


def _breakers(watch: FleetWatch) -> list[dict[str, str]]:
    """Of every pool and worker, open ones first."""
    members = watch.view.members.values()
    pools = sorted({member.heartbeat.pool for member in members})
    workers = sorted(member.heartbeat.worker_id for member in members)
    breakers = [("pool", name, watch.pool_crash_loops.state_of(name).value) for name in pools]
    breakers += [("worker", name, watch.crash_loops.state_of(name).value) for name in workers]
    breakers.sort(key=lambda breaker: breaker[2] == "closed")
    return [{"kind": kind, "name": name, "state": state} for kind, name, state in breakers]


def _pools(view: FleetView) -> dict[str, dict[str, int]]:
    pools: dict[str, dict[str, int]] = {}
    for (pool, state), count in sorted(view.counts().items()):
        pools.setdefault(pool, {})[state.value] = count
    return pools


def _event(event: FleetEvent) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "worker_id": event.worker_id,
        "incarnation": event.incarnation,
        "occurred_at_ms": event.occurred_at_ms,
        "detail": event.detail,
    }
