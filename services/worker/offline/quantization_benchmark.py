"""What quantized weights cost and bring: the error of one tensor, or of a whole model on a text held back from it.

`python -P -m services.worker.offline.quantization_benchmark --tensor`, or `--model DIR` for the table of methods, or
`--shape qwen2-0.5b` for speed alone. `--llama-cpp PYTHON` puts llama.cpp's own files of the model beside them.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineConfig
from services.worker.engine.execution.model_loading import load_model
from services.worker.engine.quantization.load_time import NONE
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.offline.english_text import Part, builtin_text, digest, windows
from services.worker.offline.kept_figures import FILE_NAME, KeptFigures
from services.worker.offline.llama_cpp import LlamaCpp, make_file, measure_file
from services.worker.offline.model_accuracy import Accuracy, ComputeLogits, Reference, measure_accuracy, take_reference
from services.worker.offline.quantization_rows import Row, Size, choose_rows, make_checkpoint, measure_size
from services.worker.offline.quantization_speed import (
    LLAMA_CPP_KINDS,
    PEER_ROWS,
    SHAPE_ROWS,
    SHAPES,
    Conditions,
    Own,
    measure_shape,
    measure_speed,
    speed_table,
)
from services.worker.offline.quantization_tables import accuracy_table, tensor_table
from services.worker.offline.speed_rounds import Rates
from services.worker.offline.tensor_error import tensor_errors
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError

_WINDOW_TOKENS = 512
_NUM_WINDOWS = 100
_QUICK_WINDOWS = 8

Report = Callable[[str, int, int], None]
"""Called with what is done, steps done and steps in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    name: str
    note: str
    size: Size
    accuracy: Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationResult:
    model: str
    held_text: str
    num_calibration_sequences: int
    rows: tuple[MeasuredRow, ...]
    speed: tuple[Rates, ...] = ()


def run_benchmark(
    model: Path,
    rows: tuple[Row, ...],
    made: Path,
    *,
    num_windows: int,
    num_sequences: int,
    speed: Conditions,
    report: Report,
) -> QuantizationResult:
    """No speed with 0 rounds. Raises CheckpointError, QuantizationError, TokenizerError, ValueError, OSError."""
    open_checkpoint(model)  # says what is wrong with a directory before its tokenizer does
    text = windows(Tokenizer.from_directory(model), builtin_text(Part.HELD), length=_WINDOW_TOKENS, count=num_windows)
    probe = _Probe(model, text, KeptFigures(made / FILE_NAME), f"calibrated on {num_sequences} sequences", report)
    measured = [probe.own(row, partial(make_checkpoint, row, model, made, num_sequences=num_sequences)) for row in rows]
    if speed.python is not None:
        measured += [probe.peer(speed.python, kind, made) for kind in speed.kinds if kind in LLAMA_CPP_KINDS]
    result = QuantizationResult(
        model=model.name,
        held_text=digest(text),
        num_calibration_sequences=num_sequences,
        rows=tuple(measured),
    )
    if not speed.num_rounds:
        return result
    own = [
        Own(
            name=row.name,
            directory=make_checkpoint(row, model, made, num_sequences=num_sequences),
            quantization=row.quantization,
        )
        for row in rows
    ]
    rates = measure_speed(model, own, speed, lambda done, total: report("speed", done, total))
    return replace(result, speed=tuple(rates))


class _Probe:
    """Measures rows against the 16-bit model, each as soon as it is made; those that are kept, not again."""

    def __init__(self, model: Path, text: torch.Tensor, kept: KeptFigures, note: str, report: Report) -> None:
        self._model, self._text, self._kept, self._report = model, text, kept, report
        self._key = f"accuracy of {open_checkpoint(model).fingerprint} on {digest(text)}, {note}"

    @cached_property
    def _reference(self) -> Reference:
        self._report("16-bit reference", 0, len(self._text))
        return take_reference(self._text, _logits(self._model, NONE))

    def own(self, row: Row, make: Callable[[], Path]) -> MeasuredRow:
        def measure() -> tuple[Size, Accuracy]:
            self._report(f"{row.name}: weights", 0, len(self._text))
            directory = make()
            size = measure_size(open_checkpoint(directory))
            return size, self._accuracy(row.name, _logits(directory, row.quantization))

        return self._row(row.name, row.note, measure)

    def peer(self, python: Path, kind: str, made: Path) -> MeasuredRow:
        name = f"llama.cpp {kind}"

        def measure() -> tuple[Size, Accuracy]:
            file = make_file(python, self._model, kind, made)
            with LlamaCpp(python, file, num_threads=torch.get_num_threads()) as peer:
                return measure_file(file), self._accuracy(name, peer.logits)

        return self._row(name, "its own quantizer", measure)

    def _accuracy(self, name: str, compute: ComputeLogits) -> Accuracy:
        return measure_accuracy(
            self._text, compute, self._reference, lambda done, total: self._report(name, done, total)
        )

    def _row(self, name: str, note: str, measure: Callable[[], tuple[Size, Accuracy]]) -> MeasuredRow:
        key = f"{self._key}: {name}"
        found = self._kept.get(key)
        if found is None:
            size, accuracy = measure()
            gc.collect()
            self._kept.put(key, {"size": dataclasses.asdict(size), "accuracy": dataclasses.asdict(accuracy)})
        else:
            size, accuracy = Size(**found["size"]), Accuracy(**found["accuracy"])
        return MeasuredRow(name=name, note=note, size=size, accuracy=accuracy)


def _logits(directory: Path, quantization: str) -> ComputeLogits:
    """Of the model as the engine runs it, for one window at a time."""
    config = EngineConfig(
        model=directory, max_model_tokens=_WINDOW_TOKENS, max_running_sequences=1, quantization=quantization
    )
    return load_model(config).runner.prompt_logits


def _command(
    tensor: Annotated[bool, typer.Option("--tensor", help="Only the error of one known tensor.")] = False,
    model: Annotated[Path | None, typer.Option(help="Directory of a Hugging Face checkpoint.")] = None,
    rows: Annotated[
        str,
        typer.Option(help="Names of rows, with commas between (of a shape: of load-time quantizations); unset: all."),
    ] = "",
    made: Annotated[
        Path | None,
        typer.Option(help="Where checkpoints and figures are kept: what is measured there is not measured again."),
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Calibration sequences of 256 tokens.")] = 96,
    quick: Annotated[bool, typer.Option("--quick", help="A shorter text: 4,096 tokens instead of 51,200.")] = False,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds in which rows take turns for speed; 0: none.")] = 3,
    shape: Annotated[str, typer.Option(help=f"Only speed, of random weights: {', '.join(SHAPES)}.")] = "",
    llama_cpp: Annotated[
        Path | None, typer.Option(help="A Python that has llama-cpp-python: its Q8_0 and Q4_0 of the model, too.")
    ] = None,
    kinds: Annotated[str, typer.Option(help=f"Of llama.cpp's files; unset: {','.join(PEER_ROWS)}.")] = "",
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="On a busy machine: speed by the processor time of one thread.")
    ] = False,
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
        if model is None and shape not in SHAPES:
            raise ValueError("--model is needed, the directory of a checkpoint; or --tensor, or a known --shape")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with tempfile.TemporaryDirectory() as thrown_away, Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("", total=None)

            def report(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            scratch = made or Path(thrown_away)
            speed = Conditions(
                scratch=scratch,
                num_rounds=rounds,
                python=llama_cpp,
                kinds=_names(kinds) or PEER_ROWS,
                counts_processor_time=processor_time,
            )
            if model is None:
                names = _names(rows) or SHAPE_ROWS
                speed = replace(speed, num_rounds=max(1, rounds))
                rates = measure_shape(shape, names, speed, lambda done, total: report("rounds", done, total))
                _print([dataclasses.asdict(one) for one in rates], as_json, speed_table(shape, rates))
                return
            result = run_benchmark(
                model,
                choose_rows(rows),
                scratch,
                num_windows=_QUICK_WINDOWS if quick else _NUM_WINDOWS,
                num_sequences=sequences,
                speed=speed,
                report=report,
            )
        tables = [accuracy_table(result), *([speed_table(result.model, result.speed)] if result.speed else [])]
        _print(dataclasses.asdict(result), as_json, *tables)
    except (CheckpointError, QuantizationError, TokenizerError, ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name for name in listed.split(",") if name)


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
