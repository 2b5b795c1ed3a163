"""Walks a GGUF header before the gguf package reads it: every count and length is held against the file's size.

That package trusts the numbers it reads; a damaged one can keep it busy for ever, or make it ask for all memory.
Nothing is kept here, and nothing larger than a name is read: the walk takes time in proportion to the vocabulary.

Source: the GGUF specification, version 3 (ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import gguf
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 18
_MOST_ELEMENTS = 4_000_000
"""Of all arrays together. The largest vocabularies, with types, scores and merges, have a third of it."""
_MOST_DIMENSIONS = 4
_LONGEST_NAME_BYTES = 1 << 16
_STRING, _ARRAY = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY
_SCALAR_BYTES = {
    kind: 1 if kind.name in ("UINT8", "INT8", "BOOL") else int(kind.name[-2:]) // 8
    for kind in gguf.GGUFValueType
    if kind not in (_STRING, _ARRAY)
}


def check_header(file: Path) -> None:
    """Raises CheckpointError, naming what does not fit."""
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise CheckpointError(file, "not a GGUF file")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _HeaderWalk(file, data).check()


class _HeaderWalk:
    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self._file = file
        self._data = data
        self._place = len(_MAGIC)
        self._num_elements = 0
        self._alignment = GGUF_DEFAULT_ALIGNMENT

    def check(self) -> None:
        version = self._integer(4)
        if version not in _VERSIONS:
            raise self._error(f"version {version} is not supported; little-endian {_VERSIONS} are")
        num_tensors, num_keys = self._integer(8), self._integer(8)
        if num_tensors > _MOST_TENSORS or num_keys > _MOST_KEYS:
            raise self._error(f"{num_tensors} tensors and {num_keys} keys cannot be meant")
        for _ in range(num_keys):
            self._walk_key()
        ends = [self._walk_tensor() for _ in range(num_tensors)]
        start = -(-self._place // self._alignment) * self._alignment
        for name, end in ends:
            if start + end > len(self._data):
                raise self._error(f"truncated: it ends at {start + end} of {len(self._data)} bytes", name)

    def _walk_key(self) -> None:
        name = self._name()
        kind = self._kind(name)
        if kind is _ARRAY:
            self._walk_array(name)
        elif kind is _STRING:
            self._skip(self._integer(8, name), name)
        else:
            value = self._integer(_SCALAR_BYTES[kind])
            if name == "general.alignment":
                self._alignment = value
                if value < 1 or value & (value - 1):
                    raise self._error(f"{value} is not a power of two", name)

    def _walk_array(self, name: str) -> None:
        kind, count = self._kind(name), self._integer(8)
        self._num_elements += count
        if kind is _ARRAY:
            raise self._error("an array of arrays is not supported", name)
        if self._num_elements > _MOST_ELEMENTS:
            raise self._error(f"an array of {count} is too long", name)
        if kind is not _STRING:
            self._skip(count * _SCALAR_BYTES[kind], name)
            return
        for _ in range(count):
            self._skip(self._integer(8, name), name)

    def _walk_tensor(self) -> tuple[str, int]:
        """Its name, and where it ends, counted from the start of the data."""
        name = self._name()
        num_dimensions = self._integer(4)
        if num_dimensions > _MOST_DIMENSIONS:
            raise self._error(f"{num_dimensions} dimensions cannot be meant", name)
        num_values = math.prod(self._integer(8) for _ in range(num_dimensions))
        number = self._integer(4)
        try:
            block, size_bytes = GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)]
        except (ValueError, KeyError):
            raise self._error(f"type {number} is unknown", name) from None
        if num_values % block:
            raise self._error(f"{num_values} values are no whole blocks of {block}", name)
        return name, self._integer(8) + num_values // block * size_bytes

    def _kind(self, name: str) -> gguf.GGUFValueType:
        number = self._integer(4)
        try:
            return gguf.GGUFValueType(number)
        except ValueError:
            raise self._error(f"type {number} is unknown", name) from None

    def _name(self) -> str:
        length = self._integer(8)
        if length > _LONGEST_NAME_BYTES:
            raise self._error(f"a name of {length} bytes cannot be meant")
        begin = self._place
        self._skip(length, "a name")
        try:
            return self._data[begin : self._place].decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a name is not UTF-8") from None

    def _integer(self, num_bytes: int, name: str | None = None) -> int:
        """Little-endian, unsigned; of a float this is its bits."""
        begin = self._place
        self._skip(num_bytes, name)
        return int.from_bytes(self._data[begin : self._place], "little")

    def _skip(self, num_bytes: int, name: str | None) -> None:
        if num_bytes > len(self._data) - self._place:
            raise self._error(f"damaged or truncated: its header goes on behind {len(self._data)} bytes", name)
        self._place += num_bytes

    def _error(self, problem: str, subject: str | None = None) -> CheckpointError:
        return CheckpointError(self._file, problem, subject=subject)
