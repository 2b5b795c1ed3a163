"""`penstock bench`: measurements, each with `--json`, and `--check` that exits 1 and names a missed goal."""

from __future__ import annotations

import asyncio
import os
import platform as machine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from services.cli.benchmarks.goals import as_json, figures_table, missed_goals, processor_table
from services.cli.benchmarks.overload import OverloadPlan, measure_overload, overload_table
from services.cli.benchmarks.overload import figures_of as overload_figures
from services.cli.benchmarks.platform import PlatformLoad, measure_platform
from services.cli.benchmarks.routing import POLICIES, RoutingLoad, figures_of, measure_routing, routing_table
from services.cli.commands.offline import (
    PASS_THROUGH,
    bench_attention,
    bench_batching,
    bench_engine,
    bench_gpu,
    bench_memory,
    bench_quantization,
)
from services.cli.console import err, give_up, out, plain_errors, waiting
from services.cli.embedded.model import resolve_model

bench_app = typer.Typer(help="Measurements, against stated goals.", no_args_is_help=True)
bench_app.command(name="engine", context_settings=PASS_THROUGH)(bench_engine)
bench_app.command(name="attention", context_settings=PASS_THROUGH)(bench_attention)
bench_app.command(name="gpu", context_settings=PASS_THROUGH)(bench_gpu)
bench_app.command(name="memory", context_settings=PASS_THROUGH)(bench_memory)
bench_app.command(name="batching", context_settings=PASS_THROUGH)(bench_batching)
bench_app.command(name="quantization", context_settings=PASS_THROUGH)(bench_quantization)


@bench_app.command()
def platform(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    workers: Annotated[int, typer.Option(help="Workers with the null engine.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of each full-load run.")] = 10.0,
    records: Annotated[int, typer.Option(help="Records of the Kafka run.")] = 15_000,
) -> None:
    """Measure what the platform adds, with a hash in place of the model."""
    with plain_errors():
        load = PlatformLoad(workers=workers, full_seconds=seconds, kafka_records=records)
        with waiting(err, "starting") as report:
            figures = asyncio.run(measure_platform(load, report=report))
        if as_json_output:
            out.print_json(data=as_json(figures, benchmark="platform", cores=os.cpu_count(), machine=machine.machine()))
        else:
            shown = [figure for figure in figures if not figure.name.startswith("cpu_")]
            out.print(figures_table(f"Platform, null engine, {workers} worker(s), {os.cpu_count()} cores", shown))
            out.print(processor_table(figures))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))


@bench_app.command()
def routing(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    seconds: Annotated[float, typer.Option(help="Length of each policy's run.")] = 30.0,
    per_second: Annotated[float, typer.Option(help="Requests a second, Poisson.")] = 28.0,
    policy: Annotated[list[str] | None, typer.Option(help="Measure only these; may be repeated.")] = None,
) -> None:
    """Compare the routing policies on three workers of which one is three times as slow."""
    with plain_errors():
        load = RoutingLoad(seconds=seconds, per_second=per_second)
        with waiting(err, "starting") as report:
            results = asyncio.run(measure_routing(load, tuple(policy or POLICIES), report=report))
        figures = figures_of(results)
        if as_json_output:
            out.print_json(data=as_json(figures, benchmark="routing", cores=os.cpu_count(), machine=machine.machine()))
        else:
            out.print(routing_table(results))
            out.print(figures_table("Goals", [figure for figure in figures if figure.goal is not None]))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))


@bench_app.command()
def overload(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    seconds: Annotated[float, typer.Option(help="Length of each point.")] = 120.0,
    engine: Annotated[str, typer.Option(help="`real`, or `null`: 30 ms a step.")] = "real",
    model: Annotated[str, typer.Option(help="Hugging Face directory, GGUF file, or `default`.")] = "default",
    admission: Annotated[bool, typer.Option(help="Off: the gateway takes everything.")] = True,
    factor: Annotated[list[float] | None, typer.Option(help="Load over capacity; may be repeated.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Where the default model is imported to.")] = Path(".penstock"),
) -> None:
    """Offer 0.5 to 5 times the measured capacity and see what callers get, and whether it recovers."""
    with plain_errors():
        path, name = (None, "null") if engine == "null" else asyncio.run(resolve_model(model, data_dir=data_dir))
        plan = OverloadPlan(model=path, served_name=name, seconds=seconds, is_admission_on=admission)
        if factor:
            plan = replace(plan, factors=tuple(sorted(factor)))
        with waiting(err, "starting") as report:
            result = asyncio.run(measure_overload(plan, report=report))
        figures = overload_figures(plan, result)
        if as_json_output:
            points = [asdict(point) for point in (*result.points, result.recovered)]
            out.print_json(data=as_json(figures, benchmark="overload", cores=os.cpu_count(), points=points))
        else:
            out.print(overload_table(result))
            out.print(figures_table("Goals", figures))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))
