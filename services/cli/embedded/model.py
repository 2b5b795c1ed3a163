"""The model a stack serves: a directory, a GGUF file, or the default, which is imported once from its wheel.

The import itself runs in a process of the worker's (it needs torch); this module only decides where things lie.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from services.cli.console import CommandFailed
from services.cli.settings import DEFAULT_MODEL

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"


async def resolve_model(model: str, *, data_dir: Path) -> tuple[Path, str]:
    """The checkpoint to serve and the name it is served under. Imports the default model when it is not there yet."""
    if model == DEFAULT_MODEL:
        directory = data_dir / "models" / DEFAULT_MODEL_NAME
        if not (directory / "config.json").exists():
            await import_model(DEFAULT_MODEL, directory)
        return directory, DEFAULT_MODEL_NAME
    path = Path(model).expanduser()
    if not path.exists():
        raise CommandFailed(
            f"--model {model} does not exist", hint="give a Hugging Face directory, a GGUF file or `default`"
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise CommandFailed(f"--model {model} has no config.json, so it is no Hugging Face checkpoint")
    return path, path.stem if path.is_file() else path.resolve().name


async def import_model(source: str, directory: Path) -> None:
    """Turn a GGUF file (or `default`) into a Hugging Face directory, with a progress bar on the terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.worker.offline.import_model", source, "--out", str(directory)
    )
    if await process.wait() != 0:
        raise CommandFailed(f"the model {source} could not be imported into {directory}")
