"""Lets a record pass whose header *name* is not UTF-8. Other clients write any bytes there.

aiokafka decodes names strictly while it unpacks a batch, so that one such record raises UnicodeDecodeError at every
poll, for ever, in every member of the group: no partition moves any more. There is no hook for it; `install()` puts a
reader in front of aiokafka's that falls back to surrogate escapes for the batch concerned; the others stay fast.
"""

from collections.abc import Iterator
from typing import Any

import aiokafka.consumer.fetcher as fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def install() -> None:
    """For every consumer of this process; idempotent."""
    fetcher.MemoryRecords = LenientMemoryRecords


class LenientMemoryRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """Splits a fetched buffer into batches, as aiokafka does, and remembers each batch's bytes."""

    def next_batch(self, *arguments: Any, **keywords: Any) -> Any:
        buffer = self._next_slice
        batch = super().next_batch(*arguments, **keywords)
        return batch if batch is None else _LenientBatch(batch, buffer)


class _LenientBatch:
    """A batch whose iteration begins again, leniently, where the strict decoder gives up."""

    def __init__(self, batch: Any, buffer: memoryview) -> None:
        self._batch = batch
        self._buffer = buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(list(_EscapingBatch(self._buffer)))


class _EscapingBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    """aiokafka's own Python decoder over a buffer whose slices decode with surrogate escapes."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _EscapingBuffer(self._buffer)


class _EscapingBuffer(bytearray):
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _EscapingBytes(found) if isinstance(index, slice) else found


class _EscapingBytes(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "surrogateescape")
