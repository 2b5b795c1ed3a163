"""The gateways and supervisors of the stack on this machine, as processes. Found by their titles, told by signals.

Refuses to know workers: these are told to drain over Kafka, wherever they run.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import httpx
import psutil

from services.cli.console import CommandFailed

GATEWAY, SUPERVISOR = "gateway", "supervisor"
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LocalService:
    """One life of a gateway or a supervisor."""

    kind: str
    port: int
    pid: int

    @property
    def name(self) -> str:
        return f"{self.kind} at port {self.port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def local_services(stack_pid: int, kind: str) -> list[LocalService]:
    """The stack's living processes of this kind, by port; one that is just starting has no title yet."""
    found = []
    for process in psutil.Process(stack_pid).children():
        with contextlib.suppress(psutil.Error, ValueError):
            title = " ".join(process.cmdline()).split()
            if title[:2] == ["penstock", f"services.{kind}"]:
                found.append(LocalService(kind, int(title[2]), process.pid))
    return sorted(found, key=lambda service: service.port)


def restart(stack_pid: int, service: LocalService, *, patience_seconds: float) -> float:
    """SIGTERM, then until the stack's replacement says that it is ready. The seconds it took. Raises CommandFailed."""
    started = time.monotonic()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(service.pid).terminate()
    while time.monotonic() - started < patience_seconds:
        lives = [life for life in local_services(stack_pid, service.kind) if life.port == service.port]
        if any(life.pid != service.pid and _is_ready(life) for life in lives):
            return time.monotonic() - started
        time.sleep(_POLL_SECONDS)
    raise CommandFailed(
        f"{service.name} is not ready again after {patience_seconds:.0f} s", hint="its log is in the data directory"
    )


def _is_ready(service: LocalService) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False
