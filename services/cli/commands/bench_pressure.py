"""`penstock bench routing` and `overload`: what the policies of docs/policies.md do on a real stack."""

from __future__ import annotations

import asyncio
import os
import platform as machine
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from services.cli.benchmarks.goals import Figure, as_json, figures_table, missed_goals
from services.cli.benchmarks.overload import OverloadPlan, measure_overload
from services.cli.benchmarks.overload_points import OverloadRecord, Point, figures_of, overload_table, point_line
from services.cli.benchmarks.routing import (
    POLICIES,
    RoutingLoad,
    RoutingResult,
    measure_routing,
    result_line,
    routing_table,
)
from services.cli.benchmarks.routing import figures_of as routing_figures
from services.cli.benchmarks.scenarios.catalogue import SCENARIOS
from services.cli.console import CommandFailed, err, give_up, out, plain_errors, waiting
from services.cli.embedded.model import resolve_model


def routing(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    seconds: Annotated[float, typer.Option(help="Length of each policy's run.")] = 30.0,
    per_second: Annotated[float, typer.Option(help="Requests a second, Poisson.")] = 28.0,
    policy: Annotated[list[str] | None, typer.Option(help="Measure only these; may be repeated.")] = None,
) -> None:
    """Compare the routing policies on three workers of which one is three times as slow."""
    with plain_errors():
        if unknown := set(policy or ()) - set(POLICIES):
            raise CommandFailed(f"no policy {', '.join(sorted(unknown))}", hint=f"there are {', '.join(POLICIES)}")
        load = RoutingLoad(seconds=seconds, per_second=per_second)

        def tell(result: RoutingResult) -> None:
            err.print(result_line(result), style="dim", soft_wrap=True)

        with waiting(err, "starting") as report:
            results = asyncio.run(measure_routing(load, tuple(policy or POLICIES), report=report, measured=tell))
        figures = routing_figures(results)
        if as_json_output:
            out.print_json(data=as_json(figures, benchmark="routing", cores=os.cpu_count(), machine=machine.machine()))
        else:
            out.print(routing_table(results))
            out.print(figures_table("Goals", [figure for figure in figures if figure.goal is not None]))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))


def overload(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    seconds: Annotated[float, typer.Option(help="Length of each point.")] = 120.0,
    engine: Annotated[str, typer.Option(help="`real`, or `null`: 30 ms a step.")] = "real",
    model: Annotated[str, typer.Option(help="Hugging Face directory, GGUF file, or `default`.")] = "default",
    admission: Annotated[bool, typer.Option(help="Off: the gateway takes everything.")] = True,
    factor: Annotated[list[float] | None, typer.Option(help="Load over capacity; may be repeated.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of the engine; default: all cores but one, for everything else.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Keep the points in this file; what is in it is not measured again.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where the default model is imported to.")] = Path(".penstock"),
) -> None:
    """Offer 0.5 to 5 times the measured capacity and see what callers get, and whether it recovers."""
    with plain_errors():
        path, name = (None, "null") if engine == "null" else asyncio.run(resolve_model(model, data_dir=data_dir))
        plan = OverloadPlan(model=path, served_name=name, seconds=seconds, is_admission_on=admission)
        if factor:
            plan = replace(plan, factors=tuple(sorted(set(factor))))
        if threads is not None:
            plan = replace(plan, threads=threads)
        found = OverloadRecord(plan.identity, record)

        def tell(point: Point) -> None:
            err.print(point_line(point), style="dim", soft_wrap=True)

        with waiting(err, "starting") as report:
            asyncio.run(measure_overload(plan, found, report=report, measured=tell))
        figures = figures_of(plan.limits, found)
        if as_json_output:
            out.print_json(data=as_json(figures, benchmark="overload", cores=os.cpu_count(), **found.as_json()))
        else:
            out.print(overload_table(found, title=_title(plan)))
            out.print(figures_table("Goals", figures))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))


def _title(plan: OverloadPlan) -> str:
    """The load in a line: what has to be said for the table to mean something."""
    admission = "admission on" if plan.is_admission_on else "admission off"
    return (
        f"Overload, {admission}; {plan.served_name}, {plan.threads} of {os.cpu_count()} cores, "
        f"batch of {plan.slots}, {plan.max_tokens} tokens an answer"
    )


def scenarios(
    name: Annotated[list[str] | None, typer.Argument(help="Only these; default: all.")] = None,
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name what was not as expected.")] = False,
) -> None:
    """Retry storm, flooding tenant, slow worker, slow Redis, flapping worker: each beside what is expected of it."""
    with plain_errors():
        if unknown := set(name or ()) - set(SCENARIOS):
            raise CommandFailed(f"no scenario {', '.join(sorted(unknown))}", hint=f"there are {', '.join(SCENARIOS)}")
        found: dict[str, list[Figure]] = {}
        for chosen in name or SCENARIOS:
            scenario = SCENARIOS[chosen]
            with waiting(err, chosen) as report:
                found[chosen] = asyncio.run(scenario.run(report))
            if not as_json_output:
                out.print(figures_table(f"{chosen}: {scenario.picture}", found[chosen]))
        if as_json_output:
            parts = {chosen: as_json(figures) for chosen, figures in found.items()}
            out.print_json(data={"benchmark": "scenarios", "cores": os.cpu_count(), "scenarios": parts})
        missed = [f"{chosen} {line}" for chosen, figures in found.items() for line in missed_goals(figures)]
        if check and missed:
            give_up("not as expected: " + "; ".join(missed))
