"""`penstock quarantine` and `penstock resume`: an operator's word about a worker, for the supervisor that leads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import httpx
import typer

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.local_services import SUPERVISOR, local_services
from services.cli.settings import CommandSettings
from services.cli.stack_state import require_stack

_WORKER = typer.Argument(help="The worker's name, as `penstock fleet` shows it.")
_REASON = typer.Option(help="Told to the worker, for its log.")
_URL = typer.Option(help="Supervisor's URL; default: the running stack's.")
_CONFLICT = 409


def quarantine(
    worker: Annotated[str, _WORKER],
    reason: Annotated[str, _REASON] = "an operator asked",
    url: Annotated[str | None, _URL] = None,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Let a worker take nothing new, until `penstock resume`. What it runs it finishes."""
    with plain_errors():
        give_order(_urls(url, data_dir), worker, "quarantine", reason, key=admin_key())
        out.print(f"{worker} takes nothing new until `penstock resume {worker}`")


def resume(
    worker: Annotated[str, _WORKER],
    reason: Annotated[str, _REASON] = "an operator asked",
    url: Annotated[str | None, _URL] = None,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """End a worker's quarantine, whoever began it."""
    with plain_errors():
        give_order(_urls(url, data_dir), worker, "resume", reason, key=admin_key())
        out.print(f"{worker} takes work again")


def admin_key() -> str | None:
    key = CommandSettings().admin_key
    return None if key is None else key.get_secret_value()


def give_order(urls: list[str], worker: str, order: str, reason: str, *, key: str | None) -> None:
    """To the first of these supervisors that leads. Raises CommandFailed with the supervisor's own words."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    complaint = "no supervisor runs"
    for url in urls:
        try:
            response = httpx.post(
                f"{url}/workers/{worker}/{order}", params={"reason": reason}, headers=headers, timeout=5.0
            )
        except httpx.HTTPError as error:
            complaint = f"no supervisor answers at {url}: {error}"
            continue
        if response.is_success:
            return
        complaint = response.json().get("error", response.text)
        if response.status_code != _CONFLICT:
            break
    raise CommandFailed(complaint, hint="`penstock fleet` shows the workers; PENSTOCK_CLI_ADMIN_KEY is the admin key")


def _urls(url: str | None, data_dir: Path) -> list[str]:
    if url is not None:
        return [url]
    stack = require_stack(data_dir)
    others = [service.url for service in local_services(stack.pid, SUPERVISOR)]
    return [stack.supervisor_url, *(other for other in others if other != stack.supervisor_url)]
