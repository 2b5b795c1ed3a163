"""Orders to workers, service levels: against a small HTTP server in the supervisor's place."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app


class Supervisor(BaseHTTPRequestHandler):
    """Remembers what was posted; answers what it is told to."""

    posted: ClassVar[list[tuple[str, str | None]]] = []
    status, answer = 202, {"worker": "w-0"}

    def do_POST(self) -> None:
        self.posted.append((self.path, self.headers.get("authorization")))
        self._say(self.status, self.answer)

    def do_GET(self) -> None:
        burn = dict.fromkeys(("5m", "30m", "60m", "360m", "4320m"), 2.0)
        entry = {"lane": "interactive", "tenant": "acme", "objective": "availability", "target": 0.999}
        self._say(
            200,
            {"objectives": [{**entry, "events": 10, "bad": 1, "budget_left": -99, "burn": burn, "alert": "page"}]},
        )

    def _say(self, status: int, body: dict[str, object]) -> None:
        value = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(value)))
        self.end_headers()
        self.wfile.write(value)

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Supervisor, "posted", [])
    with HTTPServer(("127.0.0.1", 0), Supervisor) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("order", ["quarantine", "resume"])
def test_an_order_reaches_the_supervisor_with_its_reason_and_the_key(
    supervisor: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_CLI_ADMIN_KEY", "secret")
    result = CliRunner().invoke(app, [order, "w-0", "--reason", "hot", "--url", supervisor])
    assert result.exit_code == 0, result.output
    assert Supervisor.posted == [(f"/workers/w-0/{order}?reason=hot", "Bearer secret")]


def test_a_refused_order_is_shown_in_the_supervisors_words(supervisor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "status", 404)
    monkeypatch.setattr(Supervisor, "answer", {"error": "no worker w-9 is alive"})
    result = CliRunner().invoke(app, ["resume", "w-9", "--url", supervisor])
    assert result.exit_code == 1
    assert "no worker w-9 is alive" in result.output


def test_an_order_to_nobody_fails() -> None:
    result = CliRunner().invoke(app, ["resume", "w-0", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert "no supervisor answers" in result.output


def test_service_levels_are_a_table(supervisor: str) -> None:
    result = CliRunner().invoke(app, ["slo", "--url", supervisor], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    for part in ("interactive", "acme", "availability", "99.9%", "-9900%", "page"):
        assert part in result.output
