"""The live screen: what it shows, how it says that somebody is away, where it finds whom to ask."""

import json
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.commands.top import Screens, screen, stack_targets
from services.cli.scraped_metrics import parse
from tests.unit.services.cli.commands.test_fleet import WORKER
from tests.unit.services.cli.test_scraped_metrics import TEXT

FLEET = {
    "supervisor": "here",
    "is_leader": True,
    "at_ms": 60_000,
    "workers": [WORKER],
    "breakers": [
        {"kind": "worker", "name": "default-1", "state": "open"},
        {"kind": "worker", "name": "default-0", "state": "closed"},
        {"kind": "pool", "name": "default", "state": "closed"},
    ],
    "events": [
        {"kind": "worker-lost", "worker_id": "default-1", "detail": "its lease ended", "occurred_at_ms": 55_000}
    ],
}
LEVEL = {"lane": "bulk", "tenant": "*", "objective": "availability", "events": 41, "bad": 3, "budget_left": 0.25}
LEVELS = {
    "objectives": [
        {**LEVEL, "burn": {"5m": 2.5}, "alert": ""},
        {**LEVEL, "tenant": "search", "burn": {"5m": 7.25}, "alert": ""},
    ]
}


def shown() -> str:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=120, record=True, file=nowhere)
        before, after = parse(TEXT.format(100, 100)), parse(TEXT.format(100, 110))
        console.print(screen(FLEET, LEVELS, before, after, 2.0))
        return console.export_text()


def line_with(word: str) -> str:
    return next(line for line in shown().splitlines() if word in line)


def test_the_fleet_and_who_acts_are_shown() -> None:
    assert "supervisor here acts" in shown()
    assert "ready" in line_with("default-0")


def test_a_lane_shows_its_budget_of_everybody_and_no_tenants() -> None:
    assert line_with("availability").split() == ["bulk", "availability", "41", "3", "25%", "2.5"]
    assert "7.2" not in shown()


def test_latencies_are_of_the_last_seconds() -> None:
    assert line_with("queue wait").split() == ["queue", "wait", "10.0", "550", "910", "991"]
    assert line_with("HTTP answer").split() == ["HTTP", "answer", "0.0", "-", "-", "-"]


def test_open_breakers_are_named_and_closed_ones_counted() -> None:
    line = line_with("Breakers")
    assert "2 closed" in line
    assert "worker default-1 open" in line


def test_what_happened_last_is_shown_with_its_age() -> None:
    assert line_with("worker-lost").split()[:3] == ["5", "s", "ago"]


def test_a_supervisor_that_is_away_is_told_on_the_screen() -> None:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=120, record=True, file=nowhere)
        console.print(Screens("http://127.0.0.1:9", []).look())
        assert "no supervisor answers" in console.export_text()


def test_the_running_stacks_metrics_are_found_where_it_wrote_them_down(tmp_path: Path) -> None:
    assert stack_targets(tmp_path) == []
    (tmp_path / "prometheus-targets.json").write_text(json.dumps([{"targets": ["127.0.0.1:1"], "labels": {}}]))
    assert stack_targets(tmp_path) == ["http://127.0.0.1:1/metrics"]


def test_without_a_stack_the_command_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["top", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "no stack runs" in result.stderr
