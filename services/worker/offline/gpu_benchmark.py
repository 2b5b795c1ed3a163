"""The engine on a card: nano-vllm's published load, and one sequence's decode against what the memory can read.

`python -P -m services.worker.offline.gpu_benchmark`. Without a card it says so and measures nothing; `--device cpu`
tries the same on a processor, with a small model and few sequences.
Source of the load: nano-vllm's bench.py (256 sequences, 100 to 1,024 tokens in and out, seed 0, temperature 0.6).
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import ChoiceStart, EngineReady, Submit
from services.worker.offline.benchmark_measurement import measure_batch
from services.worker.offline.machine_limits import MachineLimits, measure_limits
from services.worker.offline.random_checkpoint import QWEN3_06B, bytes_read_per_step, write_random_checkpoint
from shared.contracts.sampling import SamplingParameters

NO_CARD = "no CUDA device here: nothing was measured. Run it where there is one, or try --device cpu with --model."
_LEAST_TOKENS, _LARGEST_TOKEN_ID, _TEMPERATURE = 100, 10_000, 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuResult:
    """`bandwidth_share`: weights read per second of batch-1 decode, over what the memory can read in this run."""

    engine: EngineReady
    limits: MachineLimits
    num_sequences: int
    prompt_tokens: int
    output_tokens: int
    load_seconds: float
    output_tokens_per_second: float
    decode_step_seconds: float
    decode_tokens_per_second: float
    bandwidth_share: float


def published_load(num_sequences: int = 256, longest: int = 1024) -> list[Submit]:
    """nano-vllm's requests, draw by draw: first all prompts, then all output lengths."""
    draw = random.Random(0)
    least = min(_LEAST_TOKENS, longest)
    prompts = [
        [draw.randint(0, _LARGEST_TOKEN_ID) for _ in range(draw.randint(least, longest))] for _ in range(num_sequences)
    ]
    return [
        Submit(
            request_id=f"load-{index}",
            choices=[ChoiceStart(index=0, prompt_token_ids=prompt, seed=index)],
            sampling=SamplingParameters(
                temperature=_TEMPERATURE, max_tokens=draw.randint(least, longest), ignore_eos=True
            ),
            eos_token_ids=[],
            order=(0, 0, 0, index),
        )
        for index, prompt in enumerate(prompts)
    ]


def within_vocabulary(load: list[Submit], vocabulary_size: int) -> list[Submit]:
    """For models whose vocabulary is smaller than the published prompts'."""
    return [
        dataclasses.replace(
            submit,
            choices=[
                dataclasses.replace(
                    choice, prompt_token_ids=[token % vocabulary_size for token in choice.prompt_token_ids]
                )
                for choice in submit.choices
            ],
        )
        for submit in load
    ]


def run_load(
    engine: Engine, load: list[Submit], *, clock: Callable[[], float] = time.perf_counter
) -> tuple[int, float]:
    """Output tokens and seconds, everything submitted at once. Raises ValueError when a request is refused."""
    num_tokens, started = 0, clock()
    for submit in load:
        engine.submit(submit)
    while engine.has_work:
        result = engine.step()
        if result.rejected:
            raise ValueError(f"the engine refuses the load: {result.rejected[0].message}")
        num_tokens += sum(len(event.token_ids) for event in result.tokens)
    return num_tokens, clock() - started


def run_benchmark(config: EngineConfig, *, num_sequences: int, longest: int, decode_tokens: int) -> GpuResult:
    """Raises CheckpointError, ValueError."""
    engine = Engine.load(config)
    device, dtype = torch.device(engine.ready.device), getattr(torch, engine.ready.dtype)
    limits = measure_limits(device, dtype)
    decode = measure_batch(engine, 1, prompt_tokens=16, output_tokens=decode_tokens, repeats=3)
    load = within_vocabulary(published_load(num_sequences, longest), engine.ready.vocabulary_size)
    num_tokens, seconds = run_load(engine, load)
    weight_bytes = bytes_read_per_step(config.model, dtype.itemsize)
    return GpuResult(
        engine=engine.ready,
        limits=limits,
        num_sequences=num_sequences,
        prompt_tokens=sum(len(submit.choices[0].prompt_token_ids) for submit in load),
        output_tokens=num_tokens,
        load_seconds=seconds,
        output_tokens_per_second=num_tokens / seconds,
        decode_step_seconds=decode.decode_step_seconds,
        decode_tokens_per_second=decode.decode_tokens_per_second,
        bandwidth_share=weight_bytes / decode.decode_step_seconds / limits.read_bytes_per_second,
    )


def result_table(result: GpuResult) -> Table:
    ready, limits = result.engine, result.limits
    table = Table(
        title=f"{ready.model_name}, {ready.dtype} on {ready.device}, {ready.attention_backend} attention",
        caption=f"{ready.num_decode_graphs} recorded batch sizes; {ready.attention_note or 'the fastest attention'}",
    )
    table.add_column("figure")
    table.add_column("measured", justify="right")
    load = f"{result.num_sequences} sequences, {result.prompt_tokens:,} tokens in, {result.output_tokens:,} out"
    table.add_row(load, f"{result.load_seconds:,.1f} s")
    table.add_row("output tokens/s of that load", f"{result.output_tokens_per_second:,.0f}")
    table.add_row("decode of one sequence, tokens/s", f"{result.decode_tokens_per_second:,.1f}")
    table.add_row("share of the bandwidth it reaches", f"{result.bandwidth_share:.0%}")
    table.add_row("bandwidth: a sum over memory", f"{limits.read_bytes_per_second / 1e9:,.0f} GB/s")
    table.add_row("matrix product", f"{limits.multiply_per_second / 1e12:,.1f} TFLOP/s")
    return table


def _command(
    model: Annotated[Path | None, typer.Option(help="Checkpoint; unset: Qwen3-0.6B's shape, random weights.")] = None,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    attention: Annotated[str, typer.Option(help="Attention backend; auto picks the fastest.")] = "auto",
    block_size: Annotated[int, typer.Option(min=1, help="Positions of a KV block.")] = 256,
    sequences: Annotated[int, typer.Option(min=1, help="Of the load.")] = 256,
    longest: Annotated[int, typer.Option(min=1, help="Most tokens in, and out, of one of them.")] = 1024,
    graphs: Annotated[bool, typer.Option(help="Replay recorded decode steps.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the engine on a card."""
    errors = Console(stderr=True)
    if device == "cuda" and not torch.cuda.is_available():
        errors.print(NO_CARD, soft_wrap=True)
        raise typer.Exit(1)
    with tempfile.TemporaryDirectory() as place:
        try:
            config = EngineConfig(
                model=model or write_random_checkpoint(Path(place) / "qwen3-0.6b-random", QWEN3_06B),
                dtype=dtype,
                device=device,
                attention_backend=attention,
                block_size_tokens=block_size,
                enable_cuda_graphs=graphs,
                max_running_sequences=sequences,
                max_waiting_sequences=sequences,
                max_model_tokens=max(2 * longest, 128),
                max_tokens_per_step=max(16 * longest, 16),
            )
            result = run_benchmark(
                config, num_sequences=sequences, longest=longest, decode_tokens=min(256, max(4, longest))
            )
        except (ValueError, OSError) as error:
            errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    else:
        Console().print(result_table(result))


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
