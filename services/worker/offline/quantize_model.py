"""Quantizes a checkpoint into a compressed-tensors directory, layer by layer; goes on where it was.

`python -P -m services.worker.offline.quantize_model MODEL --method awq --bits 4 --group-size 64 --out DIR`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from services.worker.engine.calibration.method_choice import METHODS, QuantizationChoice, choose_method
from services.worker.engine.calibration.quantize_model import check_can_quantize, quantize_model
from services.worker.engine.calibration.quantized_checkpoint import QuantizedCheckpoint, Task
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.offline.english_text import Part, digest, read_text, windows
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError

_NO_TEXT = torch.empty(0, 0, dtype=torch.int64)


def quantize_checkpoint(
    model: Path,
    out: Path,
    choice: QuantizationChoice,
    *,
    calibration: Path | None = None,
    num_sequences: int = 96,
    sequence_tokens: int = 256,
    console: Console | None = None,
) -> None:
    """`calibration` None: the built-in text. Raises CheckpointError, QuantizationError, TokenizerError, OSError and
    ValueError, before anything is written, except for a weight that is not finite."""
    if not model.is_dir():
        raise CheckpointError(
            model, "must be the directory of a Hugging Face checkpoint; `penstock model import` makes one"
        )
    checkpoint = open_checkpoint(model)
    check_can_quantize(checkpoint, model)
    method, scheme = choose_method(choice, dtype=checkpoint.config.torch_dtype)
    token_ids = _NO_TEXT
    if method.needs_calibration:
        text = read_text(calibration, Part.CALIBRATION)
        token_ids = windows(Tokenizer.from_directory(model), text, length=sequence_tokens, count=num_sequences)
    task = Task(
        source_fingerprint=checkpoint.fingerprint,
        method=choice.method,
        scheme=repr(scheme),
        calibration=digest(token_ids),
    )
    written = QuantizedCheckpoint(model, out, checkpoint.config, scheme, task)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True), transient=True) as bar:
        row = bar.add_task(f"{choice.method}, layer", total=None)
        quantize_model(
            checkpoint,
            method,
            written,
            token_ids,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
            dtype=torch.float32 if checkpoint.config.torch_dtype == "float32" else torch.bfloat16,
        )


def _command(
    model: Annotated[Path, typer.Argument(help="Directory of a Hugging Face checkpoint.")],
    out: Annotated[Path, typer.Option(help="The directory to write; it must not exist or be empty.")],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "awq",
    bits: Annotated[int | None, typer.Option(help="2, 4 or 8; unset: 4, but 8 for smoothquant and fp8.")] = None,
    group_size: Annotated[
        int,
        typer.Option(
            help="Columns that share a scale; 0: one for each row; unset: 64 for 2 and 4 bits and smoothquant."
        ),
    ] = -1,
    symmetric: Annotated[bool | None, typer.Option(help="Without zero points; unset: for 8 bits.")] = None,
    activation_bits: Annotated[
        int | None, typer.Option(help="8: inputs are rounded, too, per token and group; unset: for smoothquant.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="A text file; unset: English that Python brings.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Pieces of the text that are used.")] = 96,
    sequence_tokens: Annotated[int, typer.Option(min=8, help="Length of each.")] = 256,
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Quantize a checkpoint."""
    console = Console(stderr=True)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        choice = QuantizationChoice(
            method=method,
            bits=bits,
            group_size=None if group_size < 0 else group_size,
            is_symmetric=symmetric,
            activation_bits=activation_bits,
        )
        quantize_checkpoint(
            model,
            out,
            choice,
            calibration=calibration,
            num_sequences=sequences,
            sequence_tokens=sequence_tokens,
            console=console,
        )
    except (CheckpointError, QuantizationError, TokenizerError, OSError, ValueError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"Quantized into {out}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
