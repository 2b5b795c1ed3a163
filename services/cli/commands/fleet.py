"""`penstock fleet`: the workers as the supervisor sees them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.stack_state import require_stack

STATE_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "probation": "yellow",
    "quarantined": "red",
    "lost": "red",
    "engine-down": "red",
}
WATCH_SECONDS = 1.0
EVENTS_SHOWN = 8


def fleet(
    url: Annotated[str | None, typer.Option(help="Supervisor's URL; default: the running stack's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The supervisor's answer as it is.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every second, with what happened, until Ctrl-C.")
    ] = False,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Show every worker: state, load, cache, partitions."""
    with plain_errors():
        supervisor_url = url or require_stack(data_dir).supervisor_url
        if watch:
            watch_fleet(supervisor_url)
            return
        view = fetch_fleet(supervisor_url)
        if as_json:
            out.print_json(data=view)
        else:
            out.print(fleet_table(view))


def watch_fleet(url: str) -> None:
    """Until Ctrl-C, through restarts of the supervisor. On a terminal in place; elsewhere one page after the other.

    Raises CommandFailed when nobody answers at the beginning.
    """
    with contextlib.suppress(KeyboardInterrupt):
        page: RenderableType = fleet_page(fetch_fleet(url))
        if not out.is_terminal:
            while True:
                out.print(page)
                time.sleep(WATCH_SECONDS)
                page = _page_or_trouble(url)
        with Live(page, console=out, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(_page_or_trouble(url), refresh=True)


def _page_or_trouble(url: str) -> RenderableType:
    try:
        return fleet_page(fetch_fleet(url))
    except CommandFailed as failure:
        return Text(f"{failure.message}; trying again", style="red")


def fleet_page(view: dict[str, Any]) -> Group:
    """The workers, and what happened last, the latest at the top."""
    lines = [
        f"{max(0, view['at_ms'] - event['occurred_at_ms']) / 1_000:6.0f} s ago  {event['kind']:<19} "
        f"{event['worker_id']}  {event['detail']}"
        for event in view["events"][:EVENTS_SHOWN]
    ]
    return Group(fleet_table(view), Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))


def fetch_fleet(base_url: str) -> dict[str, Any]:
    try:
        response = httpx.get(f"{base_url}/fleet", timeout=5.0)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise CommandFailed(f"no supervisor answers at {base_url}: {error}") from None
    view: dict[str, Any] = response.json()
    return view


def fleet_table(view: dict[str, Any]) -> Table:
    """One line a worker, 80 columns wide. `load` is running + waiting requests."""
    title = f"Fleet: {len(view['workers'])} workers"
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column, width in (("worker", 10), ("state", 8)):
        table.add_column(column, no_wrap=True, min_width=width)
    table.add_column("model", no_wrap=True, overflow="ellipsis", max_width=18)
    for column, width in (("load", 6), ("KV free", 7), ("tok/s", 5), ("parts", 5), ("seen", 6)):
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    for worker in view["workers"]:
        state = shown_state(worker)
        style = STATE_STYLES.get(state, "")
        table.add_row(
            worker["worker_id"],
            f"[{style}]{state}[/]" if style else state,
            ", ".join(worker["models"]),
            f"{worker['running_requests']} + {worker['waiting_requests']}",
            share(worker["kv_blocks_free"], worker["kv_blocks_total"]),
            f"{worker['output_tokens_per_second']:.0f}",
            str(len(worker["partitions"])),
            f"{worker['age_seconds']:.1f} s",
        )
    return table


def shown_state(worker: dict[str, Any]) -> str:
    """A ready worker's standing with the supervisor says more than that it is ready."""
    standing = str(worker.get("standing", "healthy"))
    return standing if worker["state"] == "ready" and standing != "healthy" else str(worker["state"])


def share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
