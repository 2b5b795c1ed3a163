"""`GET /fleet`, `/livez`, `/readyz`, `/metrics`. Renders what the supervisor knows; decides nothing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.routing import Route

from services.supervisor.fleet import FleetView, Member
from services.supervisor.fleet_watch import FleetWatch
from services.supervisor.leadership import Leadership
from shared.contracts.fleet import FleetEvent
from shared.resilience.clock import Clock
from shared.telemetry.metrics_http import MetricsEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What the pages are made of."""

    name: str
    watch: FleetWatch
    leadership: Leadership
    clock: Clock
    problems: Callable[[], list[str]]
    """Why the supervisor is not ready; empty when it is."""


def build_admin_api(knowledge: Knowledge) -> FastAPI:
    application = FastAPI(title="Penstock supervisor", docs_url=None, redoc_url=None)
    application.router.routes.append(Route("/metrics", MetricsEndpoint()))

    @application.get("/fleet")
    async def fleet() -> JSONResponse:
        return JSONResponse(render_fleet(knowledge))

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
        "workers": [_worker(member, watch, now) for member in members],
        "events": [_event(event) for event in reversed(watch.recent_events)],
    }


def _worker(member: Member, watch: FleetWatch, now: float) -> dict[str, Any]:
    heartbeat = member.heartbeat
    return {
        **asdict(heartbeat),
        "state": member.state.value,
        "reason": member.reason,
        "age_seconds": round(now - member.heard_at, 3),
        "joined_seconds_ago": round(now - member.joined_at, 3),
        "lease": "missing" if heartbeat.incarnation in watch.leaseless else "held",
        "breaker": watch.crash_loops.state_of(heartbeat.worker_id).value,
    }


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
