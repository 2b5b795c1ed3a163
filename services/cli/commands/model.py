"""`penstock model import`: a GGUF file becomes a Hugging Face directory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli.console import CommandFailed, out, plain_errors
from services.cli.embedded.model import import_model
from services.cli.settings import DEFAULT_MODEL

model_app = typer.Typer(help="Checkpoints.", no_args_is_help=True)


@model_app.callback()
def model() -> None:
    """Checkpoints."""


@model_app.command(name="import")
def import_command(
    source: Annotated[str, typer.Argument(help="A GGUF file, or `default` for SmolLM2-135M-Instruct.")],
    directory: Annotated[Path, typer.Argument(help="Where the Hugging Face directory is made.")],
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Leave quantized weights as the file has them.")
    ] = False,
) -> None:
    """Turn a GGUF file into a Hugging Face directory, tokenizer and chat template included."""
    with plain_errors():
        if source != DEFAULT_MODEL and not Path(source).is_file():
            raise CommandFailed(f"{source} is not a file")
        if (directory / "config.json").exists():
            raise CommandFailed(f"{directory} already holds a checkpoint", hint="remove it or choose another place")
        asyncio.run(import_model(source, directory, keep_weights=keep_weights))
        out.print(f"imported into {directory}")
