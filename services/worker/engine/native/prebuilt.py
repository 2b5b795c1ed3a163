"""The kernels compiled ahead, for images that carry no compiler: one library for each kind of processor.

    python -m services.worker.engine.native.prebuilt    # in the build stage of the worker's Dockerfile

They lie beside the sources, named by them, and the best one that this processor can run is taken. Only where nothing
can be compiled: what is compiled for the very processor may be better. Knows files and processors, no tensors.
"""

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from services.worker.engine.native.build import compile_library, find_compiler, processor_features, source_digest

FOLDER = Path(__file__).with_name("prebuilt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorKind:
    """`features` in the words of /proc/cpuinfo: what the compiler may use given these flags."""

    name: str
    flags: tuple[str, ...]
    features: frozenset[str]


_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_BRAINS = _V4 | {"avx512_vnni", "avx512_bf16"}
KINDS = {
    "x86_64": (
        ProcessorKind(
            name="x86-64-v4-bf16", flags=("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"), features=_BRAINS
        ),
        ProcessorKind(name="x86-64-v4", flags=("-march=x86-64-v4",), features=_V4),
        ProcessorKind(name="x86-64-v3", flags=("-march=x86-64-v3",), features=_V3),
    )
}
"""By architecture, the best first. Of another one nothing is compiled ahead: there torch does the work."""


def kinds_here() -> tuple[ProcessorKind, ...]:
    return KINDS.get(platform.machine(), ())


def prebuilt_library(folder: Path = FOLDER) -> Path | None:
    """The best that lies there and that this processor can run. It wants the OpenMP that torch brings."""
    features = set(processor_features().split())
    digest = source_digest()
    for kind in kinds_here():
        library = folder / _file_name(kind, digest)
        if kind.features <= features and library.exists():
            return library
    return None


def build_all(folder: Path = FOLDER) -> list[Path]:
    """Raises NoNativeKernels."""
    compiler, digest = find_compiler(), source_digest()
    built = []
    for kind in kinds_here():
        library = folder / _file_name(kind, digest)
        compile_library(compiler, kind.flags, library, with_openmp=True)
        built.append(library)
    return built


def _file_name(kind: ProcessorKind, digest: str) -> str:
    return f"kernels-{digest[:12]}-{kind.name}.so"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path in build_all():
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
