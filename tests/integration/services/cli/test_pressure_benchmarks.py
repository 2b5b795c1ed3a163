"""`penstock bench overload`, `routing` and `scenarios`, shortened: they end, and everything they promise is in there.

Whether the goals are met is for the commands themselves to say, on a machine that does nothing else.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.benchmarks.scenarios.catalogue import SCENARIOS

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]


def bench(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["bench", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_an_overload_run_keeps_its_points_and_goes_on_with_those_that_are_missing(tmp_path: Path) -> None:
    record = ("--record", str(tmp_path / "overload.json"))
    first = bench("overload", "--engine", "null", "--seconds", "4", "--factor", "0.5", *record)
    second = bench("overload", "--engine", "null", "--seconds", "4", "--factor", "0.5", "--factor", "4", *record)
    assert [point["factor"] for point in first["points"]] == [0.5]
    assert [point["factor"] for point in second["points"]] == [0.5, 4.0]
    assert second["points"][0] == first["points"][0]
    assert second["capacity"] == first["capacity"] > 0
    for point in (*second["points"], second["recovered"]):
        assert point["asked"] == point["answered"] + point["refused"]
        assert (point["lost"], point["gave_up"]) == (0, 0)
    assert second["points"][1]["refused"] > 0
    assert {"goodput_at_most_load_over_peak", "refusal_p99_ms"} <= {figure["name"] for figure in second["figures"]}


def test_routing_policies_are_measured_one_after_the_other() -> None:
    found = bench("routing", "--seconds", "4", "--per-second", "10", "--policy", "adaptive", "--policy", "affinity")
    figures = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert 0 < figures["adaptive_p50_ms"] <= figures["adaptive_p99_ms"]
    assert 0 < figures["affinity_hit_rate"] <= 1
    assert "affinity_p99_over_adaptive" in figures


@pytest.mark.parametrize("name", SCENARIOS)
def test_in_every_scenario_nothing_is_lost(name: str) -> None:
    (figures,) = bench("scenarios", name)["scenarios"].values()
    found = {figure["name"]: figure["value"] for figure in figures["figures"]}
    assert found.get("lost", found.get("not_served")) == 0
    assert all(figure["goal"] is None or figure["value"] >= 0 for figure in figures["figures"])
