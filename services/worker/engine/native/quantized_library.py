"""The kernels for quantized weights as functions on pointers; see quantized_products.h and quantized_attention.c.

Checks nothing: callers pass contiguous CPU tensors laid out as those files say. None where nothing can be built.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from services.worker.engine.native.library import open_library

COLUMNS_PER_STRIP = 16
COLUMN_STEP = 64
"""Columns are padded to a multiple of this."""

_POINTER, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class QuantizedKernels:
    def __init__(self, library: ctypes.CDLL) -> None:
        self.matmul = _function(library, "penstock_coded_matmul", 3, 2)
        self.largest = _function(library, "penstock_coded_largest", 4, 1)
        self.prepare_rows = _function(library, "penstock_prepare_rows", 3, 1)
        self.quantize_rows_f32 = _function(library, "penstock_quantize_rows_f32", 4, 5)
        self.quantize_rows_bf16 = _function(library, "penstock_quantize_rows_bf16", 4, 5)
        self.write_cells = _function(library, "penstock_write_cells", 3, 6)
        self.attend_cells = _function(library, "penstock_attend_cells", 6, 10, num_floats=2)
        self.has_fast_table = bool(_function(library, "penstock_has_fast_table_matmul", 0, 0, result=_INTEGER)())


def _function(
    library: ctypes.CDLL, name: str, num_pointers: int, num_integers: int, *, num_floats: int = 0, result: Any = None
) -> Any:
    function = getattr(library, name)
    function.argtypes = [_POINTER] * num_pointers + [_INTEGER] * num_integers + [ctypes.c_float] * num_floats
    function.restype = result
    return function


@functools.cache
def load_quantized_kernels() -> QuantizedKernels | None:
    library = open_library()
    return None if library is None else QuantizedKernels(library)
