"""Gateways and supervisors of this machine are found by their titles, told by SIGTERM, and waited for."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from services.cli import local_services as module
from services.cli.console import CommandFailed
from services.cli.embedded.ports import free_port
from services.cli.local_services import LocalService, local_services, restart

TITLED = "import setproctitle, sys, time; setproctitle.setproctitle(sys.argv[1]); print('titled', flush=True); "
SLEEPS = TITLED + "time.sleep(60)"
SERVES = (
    TITLED + "import http.server as h; "
    "h.SimpleHTTPRequestHandler.do_GET = lambda self: (self.send_response(int(sys.argv[3])), self.end_headers()); "
    "h.HTTPServer(('127.0.0.1', int(sys.argv[2])), h.SimpleHTTPRequestHandler).serve_forever()"
)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def start(children: list[subprocess.Popen[str]], code: str, *arguments: str) -> int:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "titled\n"
    return child.pid


def test_the_children_with_a_services_title_are_its_processes_by_port(children: list[subprocess.Popen[str]]) -> None:
    second = start(children, SLEEPS, "penstock services.gateway 8001")
    first = start(children, SLEEPS, "penstock services.gateway 8000")
    start(children, SLEEPS, "penstock services.supervisor 8002")
    start(children, SLEEPS, "penstock services.worker default-0")
    started = {child.pid for child in children}
    found = [service for service in local_services(os.getpid(), "gateway") if service.pid in started]
    assert found == [
        LocalService("gateway", 8000, first),
        LocalService("gateway", 8001, second),
    ]


def test_a_restart_is_over_when_another_life_at_the_port_is_ready(children: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    title = f"penstock services.gateway {port}"
    old = start(children, SLEEPS, title)
    start(children, SERVES, title, str(port), "200")
    assert restart(os.getpid(), LocalService("gateway", port, old), patience_seconds=20.0) < 20.0
    assert children[0].wait(10) != 0, "the old life was told to end"


def test_a_replacement_that_is_not_ready_is_told_of(
    children: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    port = free_port()
    title = f"penstock services.gateway {port}"
    old = start(children, SLEEPS, title)
    start(children, SERVES, title, str(port), "503")
    with pytest.raises(CommandFailed, match="is not ready again"):
        restart(os.getpid(), LocalService("gateway", port, old), patience_seconds=0.3)
