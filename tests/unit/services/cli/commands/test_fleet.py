"""The fleet as a table."""

from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.commands import fleet as command
from services.cli.commands.fleet import fleet_page, fleet_table, share, shown_state
from services.cli.console import CommandFailed

WORKER: dict[str, Any] = {
    "worker_id": "default-0",
    "pool": "default",
    "state": "ready",
    "models": ["m1", "m2"],
    "running_requests": 3,
    "waiting_requests": 4,
    "kv_blocks_free": 25,
    "kv_blocks_total": 100,
    "output_tokens_per_second": 12.4,
    "partitions": [["t", 0], ["t", 1]],
    "age_seconds": 0.34,
}


def shown(view: dict[str, Any]) -> str:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(fleet_table(view))
        return console.export_text()


def test_a_worker_is_one_line_with_its_load() -> None:
    line = next(line for line in shown({"workers": [WORKER]}).splitlines() if "default-0" in line)
    for part in ("ready", "m1, m2", "3 + 4", "25%", "12", "2", "0.3 s"):
        assert part in line


def test_an_empty_fleet_is_a_table_too() -> None:
    assert "0 workers" in shown({"workers": []})


def test_a_state_unknown_to_the_table_is_shown_as_it_is() -> None:
    assert "quarantined" in shown({"workers": [{**WORKER, "state": "quarantined"}]})


@pytest.mark.parametrize(("part", "whole", "expected"), [(1, 4, "25%"), (0, 10, "0%"), (0, 0, "-")])
def test_shares(part: int, whole: int, expected: str) -> None:
    assert share(part, whole) == expected


def test_an_unreachable_supervisor_is_named() -> None:
    result = CliRunner().invoke(app, ["fleet", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert "no supervisor answers at http://127.0.0.1:9" in result.output


def test_a_ready_workers_standing_is_its_state() -> None:
    assert shown_state({**WORKER, "standing": "quarantined"}) == "quarantined"
    assert shown_state({**WORKER, "standing": "healthy"}) == "ready"
    assert shown_state({**WORKER, "standing": "quarantined", "state": "lost"}) == "lost"


def test_the_page_shows_what_happened_last_below_the_workers() -> None:
    event = {"kind": "worker-lost", "worker_id": "default-1", "detail": "no heartbeat", "occurred_at_ms": 8_000}
    with open("/dev/null", "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(fleet_page({"workers": [WORKER], "events": [event], "at_ms": 10_000}))
        text = console.export_text()
    assert text.index("default-0") < text.index("worker-lost")
    assert "2 s ago" in text


def test_watching_goes_on_through_a_supervisors_restart_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(["default-0", CommandFailed("no supervisor answers"), "default-1", KeyboardInterrupt()])

    def look(url: str) -> dict[str, Any]:
        found = next(looks)
        if isinstance(found, BaseException):
            raise found
        return {"workers": [{**WORKER, "worker_id": found}], "events": [], "at_ms": 0}

    monkeypatch.setattr(command, "fetch_fleet", look)
    monkeypatch.setattr(command, "WATCH_SECONDS", 0.0)
    result = CliRunner().invoke(app, ["fleet", "--watch", "--url", "http://supervisor"])
    assert result.exit_code == 0
    first, trouble, second = (result.output.index(word) for word in ("default-0", "trying again", "default-1"))
    assert first < trouble < second


def test_watching_nobody_ends_at_once() -> None:
    result = CliRunner().invoke(app, ["fleet", "--watch", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1
