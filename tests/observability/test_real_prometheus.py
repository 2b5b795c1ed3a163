"""Every query of every dashboard, rule and alert, put to a real Prometheus that watched load and faults."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from deploy.grafana.board import WINDOW, Query, Shows
from deploy.grafana.dashboards import BOARDS
from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY
from tests.observability import scenario
from tests.observability.prometheus_server import RULES, PrometheusServer, prometheus

pytestmark = [
    pytest.mark.observability,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(420),
]

RATE_WINDOW = "10s"
QUERIES = {
    f"{board.uid}: {panel.title} {number}": query
    for board in BOARDS
    for panel in board.panels
    for number, query in enumerate(panel.queries)
}
_SELECTOR = re.compile(r"(?<![:\w])penstock_[a-z_]+(?:\{[^}]*\})?")


@dataclass
class Watched:
    server: PrometheusServer
    windows: scenario.Windows
    stack: EmbeddedStack

    def ask(self, expression: str) -> Any:
        return self.server.ask(expression, start=self.windows.started, end=self.windows.ended)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """The scenario has run; Prometheus remembers it."""
    pool = PoolPlan(
        workers=2,
        model=tiny_model,
        served_model_name=TINY,
        dtype="float32",
        # A cache of a few sequences, so that requests are preempted.
        environment={"PENSTOCK_WORKER_KV_CACHE_BYTES": str(24 * 16 * 4 * 2 * 128 * 4)},
    )
    nobody = "http://127.0.0.1:9"
    dark = PoolPlan(
        name=scenario.DARK, served_model_name="dark", environment={"PENSTOCK_TELEMETRY_OTLP_ENDPOINT": nobody}
    )
    plan = StackPlan(
        data_dir=tmp_path_factory.mktemp("watched"),
        pools=(pool, dark),
        supervisors=2,
        request_partitions=6,
        environment={"PENSTOCK_GATEWAY_GRACE_SECONDS": "0.5", "PENSTOCK_SUPERVISOR_SCALING": "default=1..4"},
    )
    directory = tmp_path_factory.mktemp("prometheus")
    async with EmbeddedStack(plan) as stack:
        with prometheus(directory, stack.targets.file) as server:
            windows = await scenario.run(stack)
            await asyncio.sleep(2)
            yield Watched(server, windows, stack)


async def test_every_process_is_scraped(watched: Watched) -> None:
    states = {target["labels"]["process"]: target["health"] for target in watched.server.targets()}
    assert states == dict.fromkeys(
        ["gateway-0", "supervisor-0", "supervisor-1", "worker-default-0", "worker-default-1", "worker-dark-2"], "up"
    )


@pytest.mark.parametrize("name", [name for name, query in QUERIES.items() if query.shows is Shows.LOAD])
async def test_a_query_shows_something_under_load_and_moves(watched: Watched, name: str) -> None:
    expression = _asked(QUERIES[name])
    answer = watched.ask(expression)
    assert answer.between(watched.windows.load_from, watched.windows.load_until), f"no data under load: {expression}"
    assert answer.changes, f"always {set(answer.values)}: {expression}"


@pytest.mark.parametrize("name", [name for name, query in QUERIES.items() if query.shows is Shows.FAULT])
async def test_a_query_of_faults_shows_them(watched: Watched, name: str) -> None:
    expression = _asked(QUERIES[name])
    assert any(value > 0 for value in watched.ask(expression).values), f"nothing seen: {expression}"


@pytest.mark.parametrize(
    "rule", yaml.safe_load((RULES / "recording.yml").read_text())["groups"][0]["rules"], ids=lambda rule: rule["record"]
)
async def test_a_recorded_ratio_is_there(watched: Watched, rule: dict[str, str]) -> None:
    assert watched.ask(rule["record"]).values


@pytest.mark.parametrize(
    "rule", yaml.safe_load((RULES / "alerts.yml").read_text())["groups"][0]["rules"], ids=lambda rule: rule["alert"]
)
async def test_what_an_alert_looks_at_exists(watched: Watched, rule: dict[str, str]) -> None:
    for selector in _SELECTOR.findall(rule["expr"]):
        assert watched.ask(selector).values, f"no such series: {selector}"


async def test_alerts_fire_in_the_real_prometheus_when_their_cause_is_there(watched: Watched) -> None:
    fired = watched.server.ask(
        'sum by (alertname) (ALERTS{alertstate="firing", alertname="PenstockDeadLetters"})',
        start=watched.windows.started,
        end=watched.windows.ended,
    )
    assert fired.values


@pytest.mark.parametrize(
    "histogram", ["penstock_time_to_first_token_seconds_bucket", "penstock_queue_wait_seconds_bucket"]
)
async def test_a_latency_leads_to_the_trace_it_was_measured_in(watched: Watched, histogram: str) -> None:
    """Before the faults: a worker that is killed takes its last second's spans with it."""
    windows = watched.windows
    trace_ids = watched.server.trace_ids(
        f'{histogram}{{pool="default"}}', start=windows.load_from, end=windows.load_until - 2
    )
    assert trace_ids
    assert [trace_id for trace_id in trace_ids if not watched.stack.span_store.spans_of_trace(trace_id)] == []


def _asked(query: Query) -> str:
    return query.expression.replace(WINDOW, RATE_WINDOW)
