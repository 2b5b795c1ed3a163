"""The model a stack serves: a directory, a GGUF file, or the default, which is imported once from its wheel.

The import itself runs in a process of the worker's (it needs torch); this module only decides where things lie.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from services.cli.console import CommandFailed
from services.cli.settings import DEFAULT_MODEL

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"


async def resolve_model(model: str, *, data_dir: Path) -> tuple[Path, str]:
    """The checkpoint's directory and the name it is served under. GGUF files and the default are imported once."""
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
    if path.is_dir():
        return path, path.resolve().name
    directory = data_dir / "models" / f"{path.stem}-{_identity(path)}"
    if not (directory / "config.json").exists():
        await import_model(str(path), directory)
    return directory, path.stem


def _identity(file: Path) -> str:
    """Tells two files of one name apart, and a file from what it was before it changed."""
    found = file.stat()
    return hashlib.blake2b(f"{file.resolve()} {found.st_size} {found.st_mtime_ns}".encode(), digest_size=4).hexdigest()


async def import_model(source: str, directory: Path, *, keep_weights: bool = False) -> None:
    """Turn a GGUF file (or `default`) into a Hugging Face directory, with a progress bar on the terminal."""
    options = ["--keep-weights"] if keep_weights else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.worker.offline.import_model", source, "--out", str(directory), *options
    )
    if await process.wait() != 0:
        raise CommandFailed(f"the model {source} could not be imported into {directory}")
