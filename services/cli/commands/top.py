"""`penstock top`: fleet, lanes, latency, breakers and events on one live screen, from the supervisor and the metrics.

Everything shown is asked anew every second: the fleet and the service levels of the supervisor, latencies of the
gateways' and workers' own `/metrics`, as rates over the last seconds. Refuses to know where the processes come from:
it is told their addresses, or finds them where the running stack wrote them down.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from services.cli.commands.fleet import fetch_fleet, fleet_table
from services.cli.commands.slo import fetch_service_levels
from services.cli.console import CommandFailed, out, plain_errors
from services.cli.embedded.prometheus_targets import FILE_NAME
from services.cli.scraped_metrics import Scrape, latency_rows, merged, parse
from services.cli.stack_state import require_stack

REFRESH_SECONDS = 1.0
EVENTS_SHOWN = 8
_WINDOW = 10
"""Scrapes that a rate reaches back over."""
_SCRAPE_SECONDS = 2.0
_BREAKER_STYLES = {"closed": "green", "half-open": "yellow", "open": "bold red"}


def top(
    url: Annotated[str | None, typer.Option(help="Supervisor's URL; default: the running stack's.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="URL of a /metrics to read; repeat; default: the running stack's.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="One screen, after two looks a second apart.")] = False,
    data_dir: Annotated[Path, DATA_DIR_OPTION] = Path(".penstock"),
) -> None:
    """Watch the platform live until Ctrl-C: fleet, lanes, latency, breakers, events."""
    with plain_errors(), contextlib.suppress(KeyboardInterrupt):
        supervisor = url or require_stack(data_dir).supervisor_url
        screens = Screens(supervisor, metrics or ([] if url else stack_targets(data_dir)))
        screens.look()
        time.sleep(REFRESH_SECONDS)
        if once or not out.is_terminal:
            out.print(screens.look())
            return
        with Live(screens.look(), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_SECONDS)
                live.update(screens.look(), refresh=True)


def stack_targets(data_dir: Path) -> list[str]:
    """Where the running stack's processes answer `/metrics`; it keeps the list for Prometheus."""
    try:
        groups = json.loads((data_dir / FILE_NAME).read_text())
    except (OSError, ValueError):
        return []
    return [f"http://{target}/metrics" for group in groups for target in group["targets"]]


class Screens:
    """Remembers the last scrapes, so that counters become rates."""

    def __init__(self, supervisor_url: str, metrics_urls: Sequence[str]) -> None:
        self._supervisor_url = supervisor_url
        self._metrics_urls = metrics_urls
        self._scrapes: list[tuple[float, Scrape]] = []

    def look(self) -> RenderableType:
        """One screen. A supervisor that is away for a moment is told on it, not by an end."""
        try:
            fleet = fetch_fleet(self._supervisor_url)
            levels = fetch_service_levels(self._supervisor_url)
        except CommandFailed as failure:
            return Text(failure.message, style="bold red")
        self._scrapes.append((time.monotonic(), self._scrape()))
        del self._scrapes[:-_WINDOW]
        (since, first), (until, last) = self._scrapes[0], self._scrapes[-1]
        return screen(fleet, levels, first, last, max(until - since, 1e-9))

    def _scrape(self) -> Scrape:
        def ask(url: str) -> Scrape:
            try:
                return parse(httpx.get(url, timeout=_SCRAPE_SECONDS).text)
            except httpx.HTTPError:
                return {}

        with ThreadPoolExecutor(max_workers=8) as pool:
            return merged(pool.map(ask, self._metrics_urls))


def screen(fleet: Mapping[str, Any], levels: Mapping[str, Any], first: Scrape, last: Scrape, seconds: float) -> Group:
    acts = "acts" if fleet["is_leader"] else "watches"
    heading = Text.assemble(("Penstock  ", "bold"), f"supervisor {fleet['supervisor']} {acts}")
    return Group(
        heading,
        fleet_table(dict(fleet)),
        lanes_table(levels),
        latency_table(first, last, seconds),
        breakers_line(fleet["breakers"]),
        events_text(fleet),
    )


def lanes_table(levels: Mapping[str, Any]) -> Table:
    """The objectives of everybody, by lane; tenants have `penstock slo`."""
    table = _table("Lanes")
    for column in ("lane", "objective"):
        table.add_column(column, no_wrap=True)
    for column in ("events", "bad", "budget", "burn 5m"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in levels["objectives"]:
        if entry["tenant"] == "*":
            table.add_row(
                entry["lane"],
                entry["objective"],
                str(entry["events"]),
                str(entry["bad"]),
                f"{entry['budget_left']:.0%}",
                f"{entry['burn']['5m']:.1f}",
                style="bold red" if entry["alert"] else None,
            )
    return table


def latency_table(first: Scrape, last: Scrape, seconds: float) -> Table:
    table = _table(f"Latency, ms, the last {seconds:.0f} s")
    table.add_column("of", no_wrap=True)
    for column in ("per s", "p50", "p90", "p99"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in latency_rows(first, last, seconds):
        shown = [f"{value * 1_000:,.0f}" for value in row.quantiles] if row.per_second else ["-"] * 3
        table.add_row(row.name, f"{row.per_second:,.1f}", *shown)
    return table


def breakers_line(breakers: Sequence[Mapping[str, str]]) -> Text:
    """Open ones by name; closed ones are only counted."""
    closed = sum(breaker["state"] == "closed" for breaker in breakers)
    line = Text.assemble(("Breakers  ", "italic"), (f"{closed} closed", _BREAKER_STYLES["closed"]))
    for breaker in breakers:
        if breaker["state"] != "closed":
            style = _BREAKER_STYLES.get(breaker["state"], "")
            line.append(f"  {breaker['kind']} {breaker['name']} {breaker['state']}", style=style)
    line.append("\n")
    return line


def events_text(fleet: Mapping[str, Any]) -> Text:
    lines = [
        f"{max(0, fleet['at_ms'] - event['occurred_at_ms']) / 1_000:6.0f} s ago  {event['kind']:<19} "
        f"{event['worker_id']}  {event['detail']}"
        for event in fleet["events"][:EVENTS_SHOWN]
    ]
    return Text("\n".join(["Events", *lines]), no_wrap=True, overflow="ellipsis")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
