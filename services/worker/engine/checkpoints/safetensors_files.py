"""Reads safetensors files, one or many, by memory map. Pickled weights are refused, always.

The header is parsed here, before the library maps the file, so that every complaint can name file and tensor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.model_config import read_json
from services.worker.engine.checkpoints.tensor_shapes import Shape

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000
_PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_PACKED_BYTES = {"I8": 1, "U8": 1, "F8_E4M3": 1, "I32": 4, "I64": 8}
_BYTES_PER_VALUE = {**_PLAIN_BYTES, **_PACKED_BYTES}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """`dtype` is the format's own word: F32, BF16, I8 ..."""

    file: Path
    shape: Shape
    dtype: str


def weight_files(directory: Path) -> list[Path]:
    """The files of a checkpoint, in order of name."""
    if (directory / _INDEX_FILE).is_file():
        return _sharded_files(directory)
    if (directory / _SINGLE_FILE).is_file():
        return [directory / _SINGLE_FILE]
    pickles = sorted(found.name for pattern in _PICKLES for found in directory.glob(pattern))
    if pickles:
        raise CheckpointError(directory / pickles[0], "pickled weights are refused; convert to safetensors")
    raise CheckpointError(directory, f"has neither {_SINGLE_FILE} nor {_INDEX_FILE}")


def _sharded_files(directory: Path) -> list[Path]:
    index = directory / _INDEX_FILE
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(index, "must map tensors to files", subject="weight_map")
    files = set()
    for tensor, name in names.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(index, f"{name!r} is not a safetensors file beside it", subject=tensor)
        if not (directory / name).is_file():
            raise CheckpointError(directory / name, "the shard is missing", subject=tensor)
        files.add(directory / name)
    return sorted(files)


def read_headers(files: list[Path], *, allow_packed: bool = False) -> dict[str, StoredTensor]:
    """`allow_packed`: integers and 8-bit floats too, what quantized weights are stored as."""
    dtypes = _BYTES_PER_VALUE if allow_packed else _PLAIN_BYTES
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, stored in _read_header(file, dtypes).items():
            if name in tensors:
                raise CheckpointError(file, f"is in {tensors[name].file.name} as well", subject=name)
            tensors[name] = stored
    return tensors


def _read_header(file: Path, dtypes: Mapping[str, int]) -> dict[str, StoredTensor]:
    size_bytes = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        data_bytes = size_bytes - _LENGTH_BYTES - header_bytes
        if size_bytes < _LENGTH_BYTES or data_bytes < 0 or header_bytes > _LARGEST_HEADER_BYTES:
            raise CheckpointError(file, f"truncated or not safetensors: {size_bytes} bytes")
        text = stream.read(header_bytes)
    try:
        header = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(file, f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return {name: _read_entry(file, name, entry, data_bytes, dtypes) for name, entry in header.items()}


def _read_entry(file: Path, name: str, entry: Any, data_bytes: int, dtypes: Mapping[str, int]) -> StoredTensor:
    try:
        dtype, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
        begin, end = (int(offset) for offset in entry["data_offsets"])
        if min(shape, default=0) < 0:
            raise ValueError(f"a negative size in {shape}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(file, f"its header entry is damaged: {error!r}", subject=name) from error
    if not isinstance(dtype, str) or (dtype not in dtypes and not name.endswith("rotary_emb.inv_freq")):
        raise CheckpointError(file, f"dtype {dtype} is not supported", subject=name)
    if end > data_bytes:
        raise CheckpointError(file, f"truncated: the tensor ends at {end} of {data_bytes} bytes", subject=name)
    if not 0 <= begin <= end or end - begin != prod(shape) * dtypes.get(dtype, 0):
        raise CheckpointError(file, f"{end - begin} bytes cannot hold {shape} of {dtype}", subject=name)
    return StoredTensor(file=file, shape=shape, dtype=dtype)


class SafetensorsReader:
    """Tensors by name. Files are mapped at first use and stay mapped while the reader lives."""

    def __init__(self, files: list[Path], *, allow_packed: bool = False) -> None:
        self.stored = read_headers(files, allow_packed=allow_packed)
        self._open: dict[Path, Any] = {}

    def read(self, name: str) -> torch.Tensor:
        """On the CPU, in the stored dtype; a view of the map where the library can give one."""
        file = self.stored[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        tensor: torch.Tensor = self._open[file].get_tensor(name)
        return tensor
