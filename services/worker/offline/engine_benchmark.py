"""How fast the engine is by itself: tokens per second by batch size, without Kafka, Redis or text.

`python -P -m services.worker.offline.engine_benchmark --model DIR --batch 1,8,32 --prompt-tokens 32`
Prompts are random token ids, decoding is greedy and ignores the end of text, so every run does the same work.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.events import EngineReady, StepResult
from services.worker.offline.answer_path import send_and_read
from services.worker.offline.benchmark_measurement import BatchResult, measure_batch
from services.worker.offline.engine_profile import ProfileRow, StepProfile
from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerMissing

_SPARE_BLOCKS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """`problems` is what `--check` found; empty when nothing was wrong or nothing was asked."""

    engine: EngineReady
    batches: tuple[BatchResult, ...]
    problems: tuple[str, ...] = ()
    profiles: tuple[tuple[ProfileRow, ...], ...] = ()
    """One for each batch size, if asked for."""


def run_benchmark(
    model: Path,
    *,
    batch_sizes: list[int],
    prompt_tokens: int,
    output_tokens: int,
    repeats: int = 3,
    dtype: str = "auto",
    device: str = "auto",
    num_threads: int | None = None,
    quantization: str = "none",
    kv_cache: str = "16bit",
    check: bool = False,
    with_profile: bool = False,
) -> BenchmarkResult:
    """Load the engine once and measure every batch size. Raises CheckpointError, ValueError."""
    block_size_tokens = EngineConfig(model=model).block_size_tokens
    blocks_per_sequence = -(-(prompt_tokens + output_tokens) // block_size_tokens) + 1
    engine = Engine.load(
        EngineConfig(
            model=model,
            dtype=dtype,
            device=device,
            num_threads=num_threads,
            quantization=quantization,
            kv_cache=kv_cache,
            num_kv_blocks=blocks_per_sequence * max(batch_sizes) + _SPARE_BLOCKS,
            max_running_sequences=max(batch_sizes),
            max_waiting_sequences=max(batch_sizes),
            enable_prefix_cache=False,
        )
    )
    measure_batch(engine, 1, prompt_tokens=prompt_tokens, output_tokens=4, repeats=1)
    results = tuple(
        measure_batch(engine, size, prompt_tokens=prompt_tokens, output_tokens=output_tokens, repeats=repeats)
        for size in batch_sizes
    )
    problems = _problems(engine, results) if check else ()
    profiles = tuple(
        _profile(engine, model, size, prompt_tokens, output_tokens) for size in (batch_sizes if with_profile else [])
    )
    return BenchmarkResult(engine=engine.ready, batches=results, problems=problems, profiles=profiles)


def _profile(
    engine: Engine, model: Path, batch_size: int, prompt_tokens: int, output_tokens: int
) -> tuple[ProfileRow, ...]:
    """A run of its own: the timers must not slow what is reported. Its results then go the way to text."""
    profile, results = StepProfile(), list[StepResult]()
    with profile.attached(engine):
        measure_batch(
            engine,
            batch_size,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            repeats=1,
            watch=results.append,
        )
    profile.add(send_and_read(results, _detokenizers(model)).seconds)
    return profile.rows()


def _detokenizers(model: Path) -> Callable[[], IncrementalDetokenizer] | None:
    try:
        return partial(IncrementalDetokenizer, Tokenizer.from_directory(model))
    except TokenizerMissing:
        return None


def _problems(engine: Engine, results: tuple[BatchResult, ...]) -> tuple[str, ...]:
    """Every batch must give all its tokens, and the prompt they share the same first token."""
    problems = []
    for result in results:
        expected = result.batch_size * result.output_tokens
        if result.num_generated_tokens != expected:
            problems.append(f"batch {result.batch_size}: {result.num_generated_tokens} tokens instead of {expected}")
        if result.first_output[:1] != results[0].first_output[:1]:
            problems.append(f"batch {result.batch_size}: the first prompt is answered differently")
    try:
        engine.check_integrity()
    except AssertionError as error:
        problems.append(f"the engine's books do not add up: {error}")
    return tuple(problems)


def result_table(result: BenchmarkResult) -> Table:
    ready = result.engine
    table = Table(
        title=(
            f"{ready.model_name}, {ready.dtype} on {ready.device}, {ready.num_threads} threads,"
            f" {ready.attention_backend} attention, quantization {ready.quantization}, KV cache {ready.kv_cache}"
        ),
        caption=(
            f"KV cache: {ready.kv_cache_tokens:,} tokens, {ready.num_full_sequences} full-length sequences. Loaded in"
            f" {ready.load_seconds:.1f} s; {ready.resident_bytes / 2**20:,.0f} MiB resident. {ready.quantization_note}"
        ),
    )
    for column in ("batch", "output tok/s", "decode tok/s", "prompt tok/s", "ms per decode step"):
        table.add_column(column, justify="right")
    for batch in result.batches:
        table.add_row(
            str(batch.batch_size),
            f"{batch.output_tokens_per_second:,.1f}",
            f"{batch.decode_tokens_per_second:,.1f}",
            f"{batch.prompt_tokens_per_second:,.1f}",
            f"{1000 * batch.decode_step_seconds:,.2f}",
        )
    return table


def profile_table(result: BenchmarkResult) -> Table:
    table = Table(
        title="Where a step goes (processor time of the engine's thread; the shell's end is another process's)"
    )
    for column in ("batch", "part", "ms per step", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for batch, rows in zip(result.batches, result.profiles, strict=True):
        for row in rows:
            size = str(batch.batch_size) if row is rows[0] else ""
            table.add_row(size, row.part, f"{row.milliseconds_per_step:.3f}", f"{row.share:.1%}")
        others = [row for row in rows if not row.is_model]
        milliseconds, share = sum(row.milliseconds_per_step for row in others), sum(row.share for row in others)
        table.add_row("", "all but the model", f"{milliseconds:.3f}", f"{share:.1%}")
        table.add_section()
    return table


def result_json(result: BenchmarkResult) -> str:
    return json.dumps(dataclasses.asdict(result), indent=2)


def parse_batch_sizes(text: str) -> list[int]:
    """`1,8,32`. Raises ValueError."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ValueError(f"--batch must be positive whole numbers with commas between, not {text!r}")
    return sizes


def _command(
    model: Annotated[Path, typer.Option(help="Directory of a Hugging Face checkpoint.")],
    batch: Annotated[str, typer.Option(help="Batch sizes, with commas between.")] = "1,8,32",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 32,
    output_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each batch size; the median counts.")] = 3,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    num_threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    quantization: Annotated[str, typer.Option(help="none, keep, or rtn-int8, rtn-int4-g64-a8 ...")] = "none",
    kv_cache: Annotated[str, typer.Option(help="16bit, int8, fp8, int4, or int4*10,int8*10,16bit")] = "16bit",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if an answer is wrong.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Also say where a step's time goes.")] = False,
) -> None:
    """Measure the engine."""
    errors = Console(stderr=True)
    try:
        result = run_benchmark(
            model,
            batch_sizes=parse_batch_sizes(batch),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            repeats=repeats,
            dtype=dtype,
            device=device,
            num_threads=num_threads,
            quantization=quantization,
            kv_cache=kv_cache,
            check=check,
            with_profile=profile,
        )
    except (ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(result_json(result) + "\n")
    else:
        Console().print(result_table(result))
        if profile:
            Console().print(profile_table(result))
    for problem in result.problems:
        errors.print(problem, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if result.problems else 0)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
