"""read_memory.c on tensors: one pass over memory by all threads. None where there is no native library."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch

from services.worker.engine.native.library import open_library

_WORD_BYTES = 8

SumWords = Callable[[torch.Tensor], int]
"""A contiguous tensor on a CPU, a multiple of eight bytes long -> its 64-bit words' sum, modulo 2^64."""


@functools.cache
def load_sum_words() -> SumWords | None:
    library = open_library()
    if library is None:
        return None
    function = library.penstock_sum_words
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    function.restype = ctypes.c_uint64

    def sum_words(memory: torch.Tensor) -> int:
        num_bytes = memory.numel() * memory.element_size()
        assert memory.is_contiguous(), "the words of a tensor are what lies there in one piece"
        assert num_bytes % _WORD_BYTES == 0, f"{num_bytes} bytes are no whole number of words"
        return int(function(memory.data_ptr(), num_bytes // _WORD_BYTES))

    return sum_words
