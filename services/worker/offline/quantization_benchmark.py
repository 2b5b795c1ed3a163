"""What quantized weights cost and bring: the error of one tensor, or of a whole model on a text held back from it.

`python -P -m services.worker.offline.quantization_benchmark --tensor`, or `--model DIR` for the table of methods.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.execution.model_loading import load_model
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.offline.benchmark_measurement import BatchResult, measure_batch
from services.worker.offline.english_text import Part, builtin_text, digest, windows
from services.worker.offline.model_accuracy import Accuracy, ComputeLogits, Reference, measure_accuracy, take_reference
from services.worker.offline.quantization_rows import Row, Size, choose_rows, make_checkpoint, measure_size
from services.worker.offline.quantization_tables import accuracy_table, speed_table, tensor_table
from services.worker.offline.tensor_error import tensor_errors
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError

_WINDOW_TOKENS = 512
_NUM_WINDOWS = 100
_QUICK_WINDOWS = 8
_BATCHES = (1, 8, 32)
_SPEED_PROMPT, _SPEED_OUTPUT = 64, 32

Report = Callable[[str, int, int], None]
"""Called with what is done, steps done and steps in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    name: str
    note: str
    size: Size
    accuracy: Accuracy
    speed: tuple[BatchResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationResult:
    model: str
    held_text: str
    num_calibration_sequences: int
    rows: tuple[MeasuredRow, ...]


def run_benchmark(
    model: Path,
    rows: tuple[Row, ...],
    made: Path,
    *,
    num_windows: int,
    num_sequences: int,
    with_speed: bool,
    report: Report,
) -> QuantizationResult:
    """Raises CheckpointError, QuantizationError, TokenizerError, ValueError, OSError."""
    text = windows(Tokenizer.from_directory(model), builtin_text(Part.HELD), length=_WINDOW_TOKENS, count=num_windows)
    report("16-bit reference", 0, len(rows))
    reference = take_reference(text, _logits(model, "none"))
    measured = []
    for row in rows:
        report(f"{row.name}: weights", 0, num_windows)
        directory = make_checkpoint(row, model, made, num_sequences=num_sequences)
        measured.append(_measure(row, directory, text, reference, with_speed=with_speed, report=report))
    return QuantizationResult(
        model=model.name,
        held_text=digest(text),
        num_calibration_sequences=num_sequences,
        rows=tuple(measured),
    )


def _measure(
    row: Row, directory: Path, text: torch.Tensor, reference: Reference, *, with_speed: bool, report: Report
) -> MeasuredRow:
    quantization = "none" if row.choice is None else "keep"
    size = measure_size(open_checkpoint(directory))
    compute = _logits(directory, quantization)
    accuracy = measure_accuracy(text, compute, reference, lambda done, total: report(row.name, done, total))
    del compute
    gc.collect()
    speed = tuple(_speed(directory, quantization)) if with_speed else ()
    return MeasuredRow(name=row.name, note=row.note, size=size, accuracy=accuracy, speed=speed)


def _logits(directory: Path, quantization: str) -> ComputeLogits:
    """Of the model as the engine runs it, for one window at a time."""
    config = EngineConfig(
        model=directory, max_model_tokens=_WINDOW_TOKENS, max_running_sequences=1, quantization=quantization
    )
    return load_model(config).runner.prompt_logits


def _speed(directory: Path, quantization: str) -> Iterator[BatchResult]:
    engine = Engine.load(
        EngineConfig(
            model=directory,
            max_model_tokens=_SPEED_PROMPT + _SPEED_OUTPUT + 16,
            max_running_sequences=max(_BATCHES),
            max_waiting_sequences=max(_BATCHES),
            enable_prefix_cache=False,
            quantization=quantization,
        )
    )
    measure_batch(engine, 1, prompt_tokens=_SPEED_PROMPT, output_tokens=4, repeats=1)
    for size in _BATCHES:
        yield measure_batch(engine, size, prompt_tokens=_SPEED_PROMPT, output_tokens=_SPEED_OUTPUT, repeats=3)


def _command(
    tensor: Annotated[bool, typer.Option("--tensor", help="Only the error of one known tensor.")] = False,
    model: Annotated[Path | None, typer.Option(help="Directory of a Hugging Face checkpoint.")] = None,
    rows: Annotated[str, typer.Option(help="Names of rows, with commas between; unset: all.")] = "",
    made: Annotated[Path | None, typer.Option(help="Where quantized checkpoints are kept; unset: thrown away.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Calibration sequences of 256 tokens.")] = 96,
    quick: Annotated[bool, typer.Option("--quick", help="A shorter text: 4,096 tokens instead of 51,200.")] = False,
    speed: Annotated[bool, typer.Option(help="Also how fast each row runs.")] = True,
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what quantized weights cost and bring."""
    errors = Console(stderr=True)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        if tensor:
            _print([dataclasses.asdict(error) for error in tensor_errors()], as_json, tensor_table(tensor_errors()))
            return
        if model is None:
            raise ValueError("--model is needed, the directory of a checkpoint; or --tensor")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with tempfile.TemporaryDirectory() as thrown_away, Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("", total=None)
            result = run_benchmark(
                model,
                choose_rows(rows),
                made or Path(thrown_away),
                num_windows=_QUICK_WINDOWS if quick else _NUM_WINDOWS,
                num_sequences=sequences,
                with_speed=speed,
                report=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
            )
        tables = [accuracy_table(result), *([speed_table(result)] if speed else [])]
        _print(dataclasses.asdict(result), as_json, *tables)
    except (CheckpointError, QuantizationError, TokenizerError, ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def _print(content: object, as_json: bool, *tables: object) -> None:
    if as_json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    for table in tables:
        Console().print(table)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
