"""`penstock slo`: objectives, error budgets and how fast they burn, as the supervisor counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich import box
from rich.table import Table

from services.cli.commands.ask import DATA_DIR_OPTION
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.stack_state import require_stack

_ALERT_STYLES = {"page": "bold red", "ticket": "yellow"}


def slo(
    url: Annotated[str | None, typer.Option(help="Supervisor's URL; default: the running stack's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The supervisor's answer as it is.")] = False,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Show how much of each error budget is left, worst first. `*` is everybody."""
    with plain_errors():
        view = fetch_service_levels(url or require_stack(data_dir).supervisor_url)
        if as_json:
            out.print_json(data=view)
        else:
            out.print(slo_table(view))


def fetch_service_levels(base_url: str) -> dict[str, Any]:
    try:
        response = httpx.get(f"{base_url}/slo", timeout=5.0)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise CommandFailed(f"no supervisor answers at {base_url}: {error}") from None
    view: dict[str, Any] = response.json()
    return view


def slo_table(view: dict[str, Any]) -> Table:
    """80 columns. `5m`, `1h`, `6h`: burn rates; 1 spends the budget exactly in its window."""
    table = Table(
        title="Service levels", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 0), pad_edge=False
    )
    for column, width in (("lane", 11), ("tenant", 9), ("objective", 12)):
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=width)
    for column, width in (("target", 6), ("bad", 5), ("budget", 6), ("5m", 5), ("1h", 5), ("6h", 5)):
        table.add_column(column, justify="right", no_wrap=True, min_width=width)
    table.add_column("alert", no_wrap=True)
    for entry in view["objectives"]:
        burn = entry["burn"]
        table.add_row(
            entry["lane"],
            entry["tenant"],
            entry["objective"],
            f"{100 * entry['target']:g}%",
            str(entry["bad"]),
            f"{entry['budget_left']:.0%}",
            *(f"{burn[window]:.1f}" for window in ("5m", "60m", "360m")),
            entry["alert"],
            style=_ALERT_STYLES.get(entry["alert"]),
        )
    return table
