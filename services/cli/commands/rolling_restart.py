"""`penstock rolling-restart`: every worker, gateway and supervisor anew, one after another, while requests run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.commands.drain import send_drain, wait_until_left
from services.cli.commands.fleet import fetch_fleet
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.local_services import GATEWAY, SUPERVISOR, LocalService, local_services, restart
from services.cli.stack_state import StackState, require_stack
from shared.settings.kafka import KafkaSettings

_POLL_SECONDS = 0.2
_READY = "ready"


def rolling_restart(
    pool: Annotated[str | None, typer.Option(help="Workers of this pool only, and no gateway or supervisor.")] = None,
    patience_seconds: Annotated[
        float, typer.Option(help="How long each may take to leave, and its replacement to be ready.")
    ] = 180.0,
    url: Annotated[str | None, typer.Option(help="Supervisor's URL; default: the running stack's.")] = None,
    kafka: Annotated[str | None, typer.Option(help="HOST:PORT; default: the running stack's.")] = None,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Restart everything, one at a time; whoever orchestrates the workers starts their replacements.

    Workers first: each hands its requests over and leaves, and the next one follows when the pool is whole again.
    Then, on a stack of this machine, the gateways and supervisors; in Kubernetes `kubectl rollout restart` does these.
    """
    with plain_errors():
        stack = require_stack(data_dir) if url is None or kafka is None else None
        supervisor_url = url or (stack.supervisor_url if stack else "")
        settings = KafkaSettings(bootstrap_servers=kafka or (stack.kafka if stack else ""))
        started = time.monotonic()
        num_restarted = restart_workers(supervisor_url, settings, pool, patience_seconds)
        if stack is not None and pool is None:
            num_restarted += restart_services(stack, patience_seconds)
        out.print(f"{num_restarted} restarted in {time.monotonic() - started:.1f} s")


def restart_workers(url: str, settings: KafkaSettings, pool: str | None, patience_seconds: float) -> int:
    """Every worker that is ready now, by name; how many. Raises CommandFailed, then the rest was left alone."""
    workers = ready_workers(url, pool)
    if not workers:
        raise CommandFailed("no worker is ready", hint="`penstock fleet` shows their states")
    for worker in workers:
        name, mates = worker["worker_id"], ready_workers(url, worker["pool"])
        if len(mates) == 1:
            out.print(f"[yellow]{name} is the only one of its pool: its streams wait for the replacement[/]")
        began = time.monotonic()
        asyncio.run(send_drain(settings, name, "rolling restart"))
        wait_until_left(url, name, worker["incarnation"], patience_seconds=patience_seconds)
        left_after = time.monotonic() - began
        known = {mate["incarnation"] for mate in mates}
        wait_until_whole(url, worker["pool"], known, size=len(mates), patience_seconds=patience_seconds)
        ready_after = time.monotonic() - began
        out.print(f"{name} has left after {left_after:.1f} s; its replacement was ready after {ready_after:.1f} s")
    return len(workers)


def ready_workers(url: str, pool: str | None) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = fetch_fleet(url)["workers"]
    return [worker for worker in workers if worker["state"] == _READY and pool in (None, worker["pool"])]


def wait_until_whole(url: str, pool: str, known: Collection[str], *, size: int, patience_seconds: float) -> None:
    """Until the pool has its size again, with somebody new in it who holds partitions. Raises CommandFailed.

    The name of the replacement is the orchestrator's business, so it is known by being unknown.
    """
    give_up_at = time.monotonic() + patience_seconds
    while time.monotonic() < give_up_at:
        ready = ready_workers(url, pool)
        num_partitions = sum(len(worker["partitions"]) for worker in ready)
        newcomers = [worker for worker in ready if worker["incarnation"] not in known]
        has_partitions = any(worker["partitions"] for worker in newcomers) or len(ready) > num_partitions > 0
        if len(ready) >= size and newcomers and has_partitions:
            return
        time.sleep(_POLL_SECONDS)
    raise CommandFailed(
        f"the pool {pool} has no replacement after {patience_seconds:.0f} s; the other workers were left alone",
        hint="something has to start a worker that ended with status 0: `penstock up` and Kubernetes do",
    )


def restart_services(stack: StackState, patience_seconds: float) -> int:
    """The gateways one by one, then the supervisors; how many. Raises CommandFailed."""
    services: list[LocalService] = [
        service for kind in (GATEWAY, SUPERVISOR) for service in local_services(stack.pid, kind)
    ]
    for service in services:
        seconds = restart(stack.pid, service, patience_seconds=patience_seconds)
        out.print(f"{service.name} was ready again after {seconds:.1f} s")
    return len(services)
