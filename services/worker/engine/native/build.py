"""Compiles the C files beside it on first use and keeps the result, named by source, compiler flags and processor.

Knows compilers and files, no tensors. Where there is no compiler, and nothing was compiled ahead (`prebuilt.py`), there
are no native kernels: `build` says why, and torch does the work.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_NAMES = (
    "kernels.c",
    "matmul.c",
    "pair_tiles.c",
    "wide_tiles.c",
    "decoder_step.c",
    "quantized_integer.c",
    "quantized_table.c",
    "table_block.c",
    "quantized_products.c",
    "quantized_attention.c",
    "choice.c",
    "read_memory.c",
)
SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
CACHE_VARIABLE = "PENSTOCK_CACHE"

_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-Wno-psabi",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
)
"""Sums may be reordered, which vectorises them; NaN and infinity keep their meaning."""
_THIS_PROCESSOR = ("-march=native",)
_FLAGS_OF = dict.fromkeys(
    ("quantized_integer.c", "quantized_table.c", "table_block.c"), ("-fno-associative-math", "-ffp-contract=off")
)
"""Not where the same sum is written out for several numbers of rows: all must add in one order, rounded alike."""
_BUILD_TIMEOUT_SECONDS = 300


class NoNativeKernels(Exception):
    """They cannot be built or loaded here, for this reason."""


def build(*, with_openmp: bool, without: Sequence[str] = ()) -> Path:
    """The library's path, compiled now if it is not there. Raises NoNativeKernels.

    `without` names instruction sets that this processor has and the library is not to use, `avx512f`.
    """
    compiler = find_compiler()
    flags = [*_THIS_PROCESSOR, *(f"-mno-{name}" for name in without)]
    library = _cache_directory() / f"kernels-{_name(compiler, flags, with_openmp)}.so"
    if not library.exists():
        compile_library(compiler, flags, library, with_openmp=with_openmp)
    return library


def compile_library(compiler: Sequence[str], flags: Sequence[str], library: Path, *, with_openmp: bool) -> None:
    """All the sources into that file, with flags that say for which processors. Raises NoNativeKernels."""
    every_flag = [*_FLAGS, *flags, *(["-fopenmp"] if with_openmp else [])]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            linked = Path(scratch, "kernels.so")
            compiled = [str(Path(scratch, source.stem + ".o")) for source in SOURCES]
            commands = [
                [*compiler, *every_flag, *_FLAGS_OF.get(source.name, ()), "-c", str(source), "-o", target]
                for source, target in zip(SOURCES, compiled, strict=True)
            ]
            with ThreadPoolExecutor() as side_by_side:
                list(side_by_side.map(_run, commands))
            # Linked without -fopenmp: the symbols come from the OpenMP that torch has loaded. A second one in the
            # process would have threads of its own that fight torch's for the cores.
            _run([*compiler, "-shared", *compiled, "-lm", "-o", str(linked)])
            linked.replace(library)  # at once: another process may build the same
    except OSError as error:
        raise NoNativeKernels(f"cannot write to {library.parent}: {error}") from error


def find_compiler() -> list[str]:
    """Raises NoNativeKernels."""
    for name in (os.environ.get("CC"), "gcc", "cc", "clang"):
        if name and shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoNativeKernels("no C compiler: neither gcc, cc, clang nor the package ziglang")


def _cache_directory() -> Path:
    root = os.environ.get(CACHE_VARIABLE)
    return Path(root) if root else Path.home() / ".cache" / "penstock"


def _name(compiler: list[str], flags: list[str], with_openmp: bool) -> str:
    """-march=native makes a library that another processor may not run: its features are part of the name."""
    parts = (*compiler, *_FLAGS, *flags, with_openmp, _FLAGS_OF, platform.machine(), processor_features())
    return hashlib.sha256(f"{source_digest()} {parts!r}".encode()).hexdigest()[:24]


def source_digest() -> str:
    """Of the sources and their headers: a library of others is not for us."""
    headers = sorted(Path(__file__).parent.glob("*.h"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in (*SOURCES, *headers))).hexdigest()


def processor_features() -> str:
    """As the kernel lists them; what platform knows where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoNativeKernels(f"{command[0]} took longer than {_BUILD_TIMEOUT_SECONDS} s") from error
    if result.returncode != 0:
        raise NoNativeKernels(f"{command[0]} failed: {result.stderr.strip()[-500:]}")
