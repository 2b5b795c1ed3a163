"""The door to a checkpoint: a Hugging Face directory or a GGUF file, the same to whoever builds the model.

`open_checkpoint` checks everything that can be checked without reading weights: configuration, every tensor's
presence, type and shape. What it returns can be loaded. Knows nothing of modules, devices or quantization.
"""

from pathlib import Path
from typing import Protocol

import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.fingerprint import take_fingerprint
from services.worker.engine.checkpoints.model_config import (
    CONFIG_FILE,
    KEPT_GGUF,
    DecoderConfig,
    read_json,
    read_model_config,
)
from services.worker.engine.checkpoints.quantization_config import FIELD, read_weight_layout
from services.worker.engine.checkpoints.quantized_modules import QuantizedModules
from services.worker.engine.checkpoints.safetensors_files import SafetensorsReader, weight_files
from services.worker.engine.checkpoints.tensor_shapes import check_shapes, expected_shapes
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor


class Checkpoint(Protocol):
    """A model's configuration and weights, under Hugging Face names."""

    @property
    def config(self) -> DecoderConfig: ...

    @property
    def fingerprint(self) -> str:
        """Names weights and configuration; see fingerprint.py for what it covers."""

    def tensor_names(self) -> list[str]:
        """Sorted: what the decoder consists of. A tied head is not among them, whether or not it is stored."""

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """On the CPU, in `dtype` or as stored (quantized: float32). May read from disk.

        The tensor may be a view of the file: never write into it. Raises CheckpointError when there is none.
        """

    def quantized(self, name: str) -> QuantizedTensor | None:
        """A matrix in the precision it is stored in, on the CPU; None when it is stored plain. Raises the same."""


class DirectoryCheckpoint:
    """A Hugging Face directory: config.json and safetensors, weights plain or in a layout that config.json names."""

    def __init__(self, directory: Path) -> None:
        file = directory / CONFIG_FILE
        raw = read_json(file)
        self.config = read_model_config(directory)
        layout = read_weight_layout(raw, source=file)
        self._directory = directory
        files = weight_files(directory)
        self._reader = SafetensorsReader(files, allow_packed=layout is not None)
        self._names = expected_shapes(self.config)
        self._quantized = QuantizedModules(layout, self._reader, self._names, directory)
        found = {name: (stored.file, stored.shape) for name, stored in self._quantized.plain_tensors().items()}
        check_shapes(found | self._quantized.logical_tensors(), self.config, directory)
        self.fingerprint = take_fingerprint(self.config, files, raw.get(FIELD))

    def tensor_names(self) -> list[str]:
        return sorted(self._names)

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        quantized = self.quantized(name)
        if quantized is not None:
            return quantized.dequantize(torch.float32 if dtype is None else dtype)
        tensor = self._reader.read(name)
        return tensor if dtype is None else tensor.to(dtype)

    def quantized(self, name: str) -> QuantizedTensor | None:
        if name not in self._names:
            raise CheckpointError(self._directory, "the checkpoint has no such tensor", subject=name)
        return self._quantized.read(name)


def open_checkpoint(path: Path) -> Checkpoint:
    """A directory is Hugging Face's, a file must be GGUF, beside tokenizer and config.json or alone.

    Raises CheckpointError.
    """
    if (path / KEPT_GGUF).is_file() and not any(path.glob("*.safetensors")):
        path = path / KEPT_GGUF
    if path.is_dir():
        return DirectoryCheckpoint(path)
    if not path.exists():
        raise CheckpointError(path, "there is no such file or directory")
    if path.suffix != ".gguf":
        raise CheckpointError(path, "not a GGUF file; give the directory of a Hugging Face checkpoint")
    # The gguf package is only needed, and only imported, where a GGUF file is read.
    from services.worker.engine.checkpoints.gguf_checkpoint import GgufCheckpoint

    return GgufCheckpoint(path)
