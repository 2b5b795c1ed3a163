"""`penstock drain`: tell a worker to hand its work over and leave, by a command on `fleet.commands`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.commands.fleet import fetch_fleet
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.stack_state import require_stack
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.fleet import FleetCommand, FleetCommandKind
from shared.contracts.identifiers import WorkerId
from shared.messaging.broker import control_broker
from shared.settings.kafka import KafkaSettings

_POLL_SECONDS = 0.2


def drain(
    worker: Annotated[str, typer.Argument(help="The worker's name, as `penstock fleet` shows it.")],
    reason: Annotated[str, typer.Option(help="Told to the worker, for its log.")] = "an operator asked",
    wait_seconds: Annotated[float, typer.Option(help="How long to wait until it has left; 0: do not wait.")] = 60.0,
    url: Annotated[str | None, typer.Option(help="Supervisor's URL; default: the running stack's.")] = None,
    kafka: Annotated[str | None, typer.Option(help="HOST:PORT; default: the running stack's.")] = None,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Let a worker hand over what it runs and leave. Its streams go on elsewhere, without a gap."""
    with plain_errors():
        stack = require_stack(data_dir) if url is None or kafka is None else None
        supervisor_url = url or (stack.supervisor_url if stack else "")
        settings = KafkaSettings(bootstrap_servers=kafka or (stack.kafka if stack else ""))
        incarnation = incarnation_of(supervisor_url, worker)
        started = time.monotonic()
        asyncio.run(send_drain(settings, worker, reason))
        out.print(f"{worker} was told to drain")
        if wait_seconds:
            wait_until_left(supervisor_url, worker, incarnation, patience_seconds=wait_seconds)
            out.print(f"{worker} has left after {time.monotonic() - started:.1f} s")


def incarnation_of(url: str, worker: str) -> str:
    """Raises CommandFailed for a name that the supervisor does not know, or of a worker that is gone."""
    workers = fetch_fleet(url)["workers"]
    for member in workers:
        if member["worker_id"] == worker and member["state"] not in ("stopped", "lost"):
            return str(member["incarnation"])
    living = [member["worker_id"] for member in workers if member["state"] not in ("stopped", "lost")]
    raise CommandFailed(f"no worker {worker} is alive", hint=f"alive are: {', '.join(living) or 'none'}")


async def send_drain(settings: KafkaSettings, worker: str, reason: str) -> None:
    command = FleetCommand(
        kind=FleetCommandKind.DRAIN,
        worker_id=WorkerId(worker),
        issued_at_ms=time.time_ns() // 1_000_000,
        reason=reason,
    )
    try:
        async with control_broker(settings, client_id="penstock-cli") as control:
            await control.publish_command(command)
    except BrokerUnavailable as error:
        raise CommandFailed(error.message) from None


def wait_until_left(url: str, worker: str, incarnation: str, *, patience_seconds: float) -> None:
    """Until this life of the worker is over; a new one may have begun. Raises CommandFailed."""
    give_up_at = time.monotonic() + patience_seconds
    while time.monotonic() < give_up_at:
        workers = {member["worker_id"]: member for member in fetch_fleet(url)["workers"]}
        member = workers.get(worker)
        if member is None or member["incarnation"] != incarnation or member["state"] in ("stopped", "lost"):
            return
        time.sleep(_POLL_SECONDS)
    raise CommandFailed(
        f"{worker} has not left within {patience_seconds:.0f} s", hint="`penstock fleet` shows its state"
    )
