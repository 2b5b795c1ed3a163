"""The compiled kernels as functions on tensors. Checks nothing about a model; callers pass contiguous CPU tensors.

`load_kernels` is None where they cannot be built: everybody who uses them has a way without.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch

from services.worker.engine.native.build import NoNativeKernels, build
from services.worker.engine.native.prebuilt import prebuilt_library

MAX_GROUP = 64
MAX_HEAD_SIZE = 256
_INTERFACE_VERSION = 8

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, list[Any]] = {
    "add_rms_norm": [_POINTER] * 4 + [_INTEGER] * 2 + [_FLOAT],
    "silu_multiply": [_POINTER] * 2 + [_INTEGER] * 2,
    "gelu_multiply": [_POINTER] * 2 + [_INTEGER] * 2,
    "rotate_and_store": [_POINTER] * 7 + [_INTEGER] * 5,
    "paged_attention": [_POINTER] * 6 + [_INTEGER] * 7 + [_FLOAT] * 2,
}
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}
KERNEL_DTYPES = tuple(_SUFFIXES)


class Kernels:
    """The functions for one element type; arguments as in kernels.c, tensors as `data_ptr()`."""

    def __init__(self, library: ctypes.CDLL, suffix: str) -> None:
        self.add_rms_norm = _function(library, "add_rms_norm", suffix)
        self.silu_multiply = _function(library, "silu_multiply", suffix)
        self.gelu_multiply = _function(library, "gelu_multiply", suffix)
        self.rotate_and_store = _function(library, "rotate_and_store", suffix)
        self.paged_attention = _function(library, "paged_attention", suffix)


def _function(library: ctypes.CDLL, name: str, suffix: str) -> Any:
    return _plain(library, f"{name}_{suffix}", _SIGNATURES[name])


class Products:
    """What matmul.c offers for bfloat16 weights; `are_fast`: the processor has the registers that it was written for.

    `use_wide` chooses for the process how bfloat16 is multiplied; `choose_products` has chosen the faster way.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.are_fast = bool(library.penstock_has_fast_products())
        self.use_wide = _plain(library, "penstock_use_wide_products", [_INTEGER])
        self.matmul = _plain(library, "penstock_matmul", [_POINTER] * 4 + [_INTEGER] * 4)
        self.largest = _plain(library, "penstock_largest", [_POINTER] * 4 + [_INTEGER] * 3)
        self.pack = _plain(library, "penstock_pack", [_POINTER] * 2 + [_INTEGER] * 2)
        self.unpack_rows = _plain(library, "penstock_unpack_rows", [_POINTER] * 3 + [_INTEGER] * 2)


def load_products() -> Products | None:
    library = open_library()
    return None if library is None else Products(library)


def load_decoder_step() -> Any | None:
    """`penstock_decoder_step` of decoder_step.c, on two of its structures."""
    library = open_library()
    return None if library is None else _plain(library, "penstock_decoder_step", [_POINTER] * 2)


def _plain(library: ctypes.CDLL, name: str, arguments: list[Any]) -> Any:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = None
    return function


def load_kernels(dtype: torch.dtype) -> Kernels | None:
    suffix = _SUFFIXES.get(dtype)
    library = open_library() if suffix is not None else None
    return None if suffix is None or library is None else Kernels(library, suffix)


@functools.cache
def open_library() -> ctypes.CDLL | None:
    """With torch's OpenMP if that can be had, else on one thread, else none."""
    for with_openmp in (True, False):
        if with_openmp and not _share_openmp():
            continue
        try:
            library = ctypes.CDLL(str(_compiled(with_openmp=with_openmp)))
        except (NoNativeKernels, OSError):
            continue
        library.penstock_interface_version.restype = ctypes.c_int64
        if library.penstock_interface_version() == _INTERFACE_VERSION:
            choose_products(library)
            return library
    return None


def choose_products(library: ctypes.CDLL) -> bool:
    """Pairs in one instruction or float32, whichever this processor is faster with: the numbers are the same.

    Returns whether it is float32.
    """
    library.penstock_has_fast_products.restype = ctypes.c_int64
    library.penstock_time_products.argtypes, library.penstock_time_products.restype = [_INTEGER], ctypes.c_double
    library.penstock_use_wide_products.argtypes = [_INTEGER]
    is_faster = library.penstock_time_products(1) < library.penstock_time_products(0)
    library.penstock_use_wide_products(is_faster)
    return bool(is_faster)


def _compiled(*, with_openmp: bool) -> Path:
    """Here and now where there is a compiler, else ahead."""
    try:
        return build(with_openmp=with_openmp)
    except NoNativeKernels:
        if with_openmp and (library := prebuilt_library()) is not None:
            return library
        raise


def _share_openmp() -> bool:
    """Make the symbols of the GNU OpenMP that torch brought visible to the kernels."""
    root = Path(torch.__file__).parent
    for folder in (root / "lib", root.parent / "torch.libs"):
        for file in sorted(folder.glob("libgomp*.so*")):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
            return True
    return False
