"""Turns a GGUF file into the Hugging Face directory that workers load; `default` is the demo's SmolLM2.

`python -P -m services.worker.offline.import_model default --out DIR`
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_import import default_model_gguf, import_gguf
from services.worker.engine.checkpoints.model_config import CONFIG_FILE

DEFAULT_MODEL = "default"


def import_model(source: str, out: Path, *, keep_weights: bool = False, console: Console | None = None) -> None:
    """`source` is the path of a GGUF file or `default`. `keep_weights`: not in 16 bits. Raises CheckpointError."""
    gguf = default_model_gguf() if source == DEFAULT_MODEL else Path(source)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console or Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Importing {gguf.name}", total=None)
        import_gguf(
            gguf,
            out,
            lambda done, total: bar.update(task, completed=done, total=total),
            keep_weights=keep_weights,
        )


def _command(
    source: Annotated[str, typer.Argument(help="A GGUF file, or `default` for SmolLM2-135M-Instruct.")],
    out: Annotated[Path, typer.Option(help="The directory to write; it must not exist or be empty.")],
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Leave quantized weights as they are; load with quantization keep.")
    ] = False,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing where the directory holds a model already.")
    ] = False,
) -> None:
    """Import a GGUF file into a Hugging Face directory."""
    console = Console(stderr=True)
    if if_missing and (out / CONFIG_FILE).is_file():
        console.print(f"{out} holds a model already", markup=False, highlight=False, soft_wrap=True)
        return
    try:
        import_model(source, out, keep_weights=keep_weights, console=console)
    except (CheckpointError, OSError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"Imported into {out}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
