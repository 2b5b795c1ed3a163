"""The model a stack serves: a directory, a GGUF file, or the default, which is imported once from its wheel.

The import itself runs in a process of the worker's (it needs torch); this module only decides where things lie.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
from pathlib import Path

from services.cli.console import CommandFailed
from services.cli.settings import DEFAULT_MODEL

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"


KEEP = "keep"
_HEAD = "-head8"
_METHOD = re.compile(r"(?P<method>awq|gptq|smoothquant|fp8)(-int(?P<bits>[248]))?(-g(?P<group>\d+))?(-a(?P<inputs>8))?")


async def resolve_quantized(model: str, quantization: str, *, data_dir: Path) -> tuple[Path, str, str]:
    """Directory, served name, and what the worker does with the weights when it loads them.

    `awq-int4`, `gptq-int4-g128`, `smoothquant-int8-g64`, `fp8` ...: quantized once into the data directory, then kept
    as they are. `keep`: a GGUF file's weights are not turned into 16 bits. Each with `-head8`: the worker rounds a head
    that is in 16 bits. Anything else is the worker's own affair.
    """
    method, head = quantization.removesuffix(_HEAD), _HEAD if quantization.endswith(_HEAD) else ""
    directory, name = await resolve_model(model, data_dir=data_dir, keep_weights=method == KEEP)
    match = _METHOD.fullmatch(method)
    if match is None:
        return directory, name, quantization
    quantized = data_dir / "models" / f"{name}-{_identity(directory / 'config.json')}-{method}"
    if not (quantized / "config.json").exists():
        await quantize_model(directory, quantized, match)
    return quantized, name, KEEP + head


async def resolve_model(model: str, *, data_dir: Path, keep_weights: bool = False) -> tuple[Path, str]:
    """The checkpoint's directory and the name it is served under. GGUF files and the default are imported once."""
    suffix = "-kept" if keep_weights else ""
    if model == DEFAULT_MODEL:
        directory = data_dir / "models" / f"{DEFAULT_MODEL_NAME}{suffix}"
        if not (directory / "config.json").exists():
            await import_model(DEFAULT_MODEL, directory, keep_weights=keep_weights)
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
    directory = data_dir / "models" / f"{path.stem}-{_identity(path)}{suffix}"
    if not (directory / "config.json").exists():
        await import_model(str(path), directory, keep_weights=keep_weights)
    return directory, path.stem


def _identity(file: Path) -> str:
    """Tells two files of one name apart, and a file from what it was before it changed."""
    found = file.stat()
    return hashlib.blake2b(f"{file.resolve()} {found.st_size} {found.st_mtime_ns}".encode(), digest_size=4).hexdigest()


async def import_model(source: str, directory: Path, *, keep_weights: bool = False) -> None:
    """Turn a GGUF file (or `default`) into a Hugging Face directory, with a progress bar on the terminal."""
    options = ["--keep-weights"] if keep_weights else []
    if await _run("import_model", source, "--out", str(directory), *options) != 0:
        raise CommandFailed(f"the model {source} could not be imported into {directory}")


async def quantize_model(source: Path, directory: Path, wanted: re.Match[str]) -> None:
    """With the built-in calibration text and a progress bar; an interrupted run goes on the next time."""
    options = ["--method", wanted["method"]]
    if wanted["bits"]:
        options += ["--bits", wanted["bits"]]
    if wanted["group"]:
        options += ["--group-size", wanted["group"]]
    if wanted["inputs"]:
        options += ["--activation-bits", wanted["inputs"]]
    if await _run("quantize_model", str(source), "--out", str(directory), *options) != 0:
        raise CommandFailed(f"the model {source} could not be quantized into {directory}")


async def _run(tool: str, *arguments: str) -> int:
    """A tool of the worker's; what it says goes to our terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", f"services.worker.offline.{tool}", *arguments
    )
    return await process.wait()
