"""`penstock bench`: measurements, each with `--json`, and `--check` that exits 1 and names a missed goal.

What speaks to the stack as a stranger (`foreign_clients`, an extra of its own) is imported by the command that needs
it: `penstock topics` and the others run where only the platform itself is installed.
"""

from __future__ import annotations

import asyncio
import os
import platform as machine
from typing import Annotated

import typer

from services.cli.benchmarks.goals import as_json, figures_table, missed_goals, processor_table
from services.cli.commands.bench_pressure import overload, routing, scenarios
from services.cli.commands.offline import (
    PASS_THROUGH,
    bench_attention,
    bench_batching,
    bench_engine,
    bench_gpu,
    bench_kv_cache,
    bench_memory,
    bench_quantization,
    bench_speculation,
)
from services.cli.console import err, give_up, out, plain_errors, waiting

bench_app = typer.Typer(help="Measurements, against stated goals.", no_args_is_help=True)
bench_app.command(name="engine", context_settings=PASS_THROUGH)(bench_engine)
bench_app.command(name="attention", context_settings=PASS_THROUGH)(bench_attention)
bench_app.command(name="gpu", context_settings=PASS_THROUGH)(bench_gpu)
bench_app.command(name="memory", context_settings=PASS_THROUGH)(bench_memory)
bench_app.command(name="batching", context_settings=PASS_THROUGH)(bench_batching)
bench_app.command(name="quantization", context_settings=PASS_THROUGH)(bench_quantization)
bench_app.command(name="kv-cache", context_settings=PASS_THROUGH)(bench_kv_cache)
bench_app.command()(routing)
bench_app.command()(overload)
bench_app.command()(scenarios)
bench_app.command(name="speculation", context_settings=PASS_THROUGH)(bench_speculation)


@bench_app.command()
def platform(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    workers: Annotated[int, typer.Option(help="Workers with the null engine.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of each full-load run.")] = 10.0,
    records: Annotated[int, typer.Option(help="Records of the Kafka run.")] = 15_000,
    sample_ratio: Annotated[float, typer.Option(help="Share of traces that are kept; 0 exports no spans.")] = 0.01,
) -> None:
    """Measure what the platform adds, with a hash in place of the model."""
    from services.cli.benchmarks.platform import PlatformLoad, measure_platform

    with plain_errors():
        load = PlatformLoad(
            workers=workers, full_seconds=seconds, kafka_records=records, trace_sample_ratio=sample_ratio
        )
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
def telemetry(
    as_json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 and name the goals that are missed.")] = False,
    rounds: Annotated[int, typer.Option(help="Turns of each of the two stacks.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 4.0,
    tokens: Annotated[int, typer.Option(help="Tokens of each stream.")] = 64,
    sample_ratio: Annotated[float, typer.Option(help="Share of traces that are kept where telemetry is on.")] = 1.0,
) -> None:
    """Measure what exporting spans adds to the processor time of a request, in turns with a stack that exports none."""
    from services.cli.benchmarks.telemetry import TelemetryLoad, measure_telemetry

    with plain_errors():
        load = TelemetryLoad(rounds=rounds, seconds=seconds, tokens=tokens, sample_ratio=sample_ratio)
        with waiting(err, "starting") as report:
            figures = asyncio.run(measure_telemetry(load, report=report))
        if as_json_output:
            out.print_json(data=as_json(figures, benchmark="telemetry", cores=os.cpu_count()))
        else:
            out.print(figures_table(f"Telemetry, null engine, {sample_ratio:.0%} of traces kept", figures))
        if check and (missed := missed_goals(figures)):
            give_up("missed: " + "; ".join(missed))
