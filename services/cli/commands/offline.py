"""`penstock run-batch` and `penstock bench engine`: the worker's offline tools, started as processes.

The command line never imports the worker (services are strangers), so the tools have command lines of their own and
these commands pass theirs through.
"""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from shared.resilience.openmp import with_short_spins

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run_batch(context: typer.Context) -> None:
    """Answer a file of OpenAI Batch requests with the engine alone, without Kafka."""
    _run("services.worker.offline.run_batch", context.args)


def bench_engine(context: typer.Context) -> None:
    """Measure the engine: output and prompt tokens per second for each batch size."""
    _run("services.worker.offline.engine_benchmark", context.args)


def _run(module: str, arguments: list[str]) -> None:
    try:
        command = [sys.executable, "-P", "-m", module, *arguments]
        status = subprocess.run(command, env=with_short_spins(os.environ), check=False).returncode
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)
