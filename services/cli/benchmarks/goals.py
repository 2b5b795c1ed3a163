"""Figures against goals: how every `bench` command prints, writes JSON and decides `--check`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `goal` None is information only; `at_most` says which side of the goal is good."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = True

    @property
    def is_missed(self) -> bool:
        if self.goal is None:
            return False
        return self.value > self.goal if self.at_most else self.value < self.goal


def figures_table(title: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for column in ("measured", "goal", ""):
        table.add_column(column, justify="right")
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {_number(figure.goal)} {figure.unit}"
        verdict = "" if figure.goal is None else ("[red]missed[/]" if figure.is_missed else "[green]met[/]")
        table.add_row(figure.name, f"{_number(figure.value)} {figure.unit}", goal, verdict)
    return table


def as_json(figures: Sequence[Figure], **context: Any) -> dict[str, Any]:
    return {**context, "figures": [asdict(figure) | {"is_missed": figure.is_missed} for figure in figures]}


def missed_goals(figures: Sequence[Figure]) -> list[str]:
    return [
        f"{figure.name}: {_number(figure.value)} {figure.unit}, goal {_number(figure.goal or 0)} {figure.unit}"
        for figure in figures
        if figure.is_missed
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `share` between 0 and 1."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


CPU_PREFIX = "cpu_ms_per_"


def processor_table(figures: Sequence[Figure]) -> Table:
    """The `cpu_ms_per_<unit>.<service>` figures as services by units: where the processor time goes."""
    cells = {
        tuple(figure.name.removeprefix(CPU_PREFIX).split(".", 1)): figure.value
        for figure in figures
        if figure.name.startswith(CPU_PREFIX)
    }
    units = list(dict.fromkeys(unit for unit, _ in cells))
    services = sorted({service for _, service in cells}, key=lambda name: (name == "all", name))
    table = Table(title="Processor time, ms per unit of work", title_justify="left")
    table.add_column("")
    for unit in units:
        table.add_column(unit.replace("_", " "), justify="right")
    for service in services:
        row = [_number(cells[unit, service]) if (unit, service) in cells else "" for unit in units]
        table.add_row(service, *row, style="bold" if service == "all" else None)
    return table
