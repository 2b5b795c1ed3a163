"""choice.c on tensors: keyed draws without a matrix of noise. None where there is no native library."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from services.worker.engine.native.library import open_library

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64
_TOKENS_OF_A_PART = 8192
_WORD = (1 << 32) - 1

Choose = Callable[[torch.Tensor, Sequence[int], Sequence[int], int, torch.Tensor | None], torch.Tensor]
"""scores [R, V] float32 on a CPU, seeds, positions, stream, temperatures [R] float32 of logits -> [R] int64."""


@functools.cache
def load_choose() -> Choose | None:
    library = open_library()
    if library is None:
        return None
    function = library.penstock_choose
    function.argtypes = [_POINTER] * 6 + [_INTEGER] * 3
    function.restype = None

    def choose(
        scores: torch.Tensor,
        seeds: Sequence[int],
        positions: Sequence[int],
        stream: int,
        temperatures: torch.Tensor | None,
    ) -> torch.Tensor:
        scores = scores.contiguous()
        rows, columns = scores.shape
        keys = np.array([[seed & _WORD, seed >> 32 & _WORD] for seed in seeds], dtype=np.uint32)
        places = np.array(positions, dtype=np.uint32)
        chosen = torch.empty(rows, dtype=torch.int64)
        scratch = torch.empty((rows, 1 + -(-columns // _TOKENS_OF_A_PART), 2), dtype=torch.int32)
        function(
            chosen.data_ptr(),
            scratch.data_ptr(),
            scores.data_ptr(),
            None if temperatures is None else temperatures.data_ptr(),
            keys.ctypes.data,
            places.ctypes.data,
            stream,
            rows,
            columns,
        )
        return chosen

    return choose
