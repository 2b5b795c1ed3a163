"""`penstock run-batch`, `quantize` and most of `penstock bench`: the worker's tools, started as processes.

The command line never imports the worker (services are strangers), so the tools have command lines of their own and
these commands pass theirs through.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NoReturn

import typer

from shared.resilience.openmp import with_short_spins

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run_batch(context: typer.Context) -> None:
    """Answer a file of OpenAI Batch requests with the engine alone, without Kafka."""
    run_tool("services.worker.offline.run_batch", context.args)


def bench_engine(context: typer.Context) -> None:
    """Measure the engine: output and prompt tokens per second for each batch size."""
    run_tool("services.worker.offline.engine_benchmark", context.args)


def bench_attention(context: typer.Context) -> None:
    """Compare attention backends by length of the context: time, memory, share of the machine's peak."""
    run_tool("services.worker.offline.attention_benchmark", context.args)


def bench_gpu(context: typer.Context) -> None:
    """Measure the engine on a card: nano-vllm's load, and one sequence's share of the bandwidth."""
    run_tool("services.worker.offline.gpu_benchmark", context.args)


def bench_memory(context: typer.Context) -> None:
    """Count what the KV cache holds and wastes: contiguous, paged, and with shared prefixes."""
    run_tool("services.worker.offline.memory_benchmark", context.args)


def bench_batching(context: typer.Context) -> None:
    """Compare static with continuous batching: throughput, latency, padding."""
    run_tool("services.worker.offline.batching_benchmark", context.args)


def quantize(context: typer.Context) -> None:
    """Quantize a checkpoint (rtn, smoothquant, awq, gptq, fp8) into a compressed-tensors directory."""
    run_tool("services.worker.offline.quantize_model", context.args)


def bench_kv_cache(context: typer.Context) -> None:
    """Measure what a KV cache in low precision costs; `--budget 0.3` chooses a precision for every layer."""
    run_tool("services.worker.offline.kv_cache_benchmark", context.args)


def bench_quantization(context: typer.Context) -> None:
    """Measure what quantized weights cost in accuracy and bring in speed; `--tensor`: the error of one tensor."""
    run_tool("services.worker.offline.quantization_benchmark", context.args)


def bench_speculation(context: typer.Context) -> None:
    """Compare drafts with none: acceptance, tokens per target step, speed-up, and that no token changes."""
    run_tool("services.worker.offline.speculation_benchmark", context.args)


def run_tool(module: str, arguments: list[str]) -> NoReturn:
    """Start it, with our terminal, and leave as it does."""
    try:
        command = [sys.executable, "-P", "-m", module, *arguments]
        status = subprocess.run(command, env=with_short_spins(os.environ), check=False).returncode
    except KeyboardInterrupt:
        status = 130
    raise typer.Exit(status)
