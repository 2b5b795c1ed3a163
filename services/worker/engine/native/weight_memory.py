"""Memory for packed weights: huge pages, which many matrices share.

A step reads every weight once, so with pages of 4 KiB every page costs a look at the page tables, on a virtual machine
at two of them. Where the kernel grants huge pages (`transparent_hugepage` is `madvise` or `always`) 512 times fewer do.
"""

import ctypes
import math
import mmap
import threading
from contextlib import suppress

import torch

_HUGE_PAGE_BYTES = 2 << 20
_CHUNK_BYTES = 32 << 20
_CACHE_LINE_BYTES = 64


class WeightMemory:
    """Hands out parts of chunks; a chunk is freed with the last tensor that lies in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor on the CPU from the start of a cache line on, its values zeros."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(shape, dtype=dtype)
        room = -(-num_bytes // _CACHE_LINE_BYTES) * _CACHE_LINE_BYTES
        with self._lock:
            if len(self._chunk) < room:
                self._chunk = _huge_pages(max(room, _CHUNK_BYTES))
            part, self._chunk = self._chunk[:num_bytes], self._chunk[room:]
        return part.view(dtype).view(shape)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values in this memory, contiguous."""
        return self.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)


def _huge_pages(num_bytes: int) -> torch.Tensor:
    """At least as many, from the start of a huge page on. What is never written takes no memory."""
    num_bytes = -(-num_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    # Private: the kernel has another, stricter rule for huge pages that could be shared.
    memory = mmap.mmap(-1, num_bytes + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # no Linux, or a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    everything = torch.frombuffer(memory, dtype=torch.uint8)
    start = -everything.data_ptr() % _HUGE_PAGE_BYTES
    return everything[start : start + num_bytes]


def give_back_free_memory() -> None:
    """What was freed and is kept for later by malloc, as hundreds of MiB are after loading."""
    with suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


WEIGHT_MEMORY = WeightMemory()
"""Of this process."""
