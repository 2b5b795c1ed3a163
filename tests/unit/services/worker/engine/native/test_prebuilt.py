"""Kernels compiled ahead: the best that the processor can run, and only those of these sources."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from services.worker.engine.native import library, prebuilt
from services.worker.engine.native.build import SOURCES, NoNativeKernels, compile_library, find_compiler, source_digest
from services.worker.engine.native.prebuilt import KINDS, ProcessorKind, prebuilt_library

pytestmark = pytest.mark.skipif(not prebuilt.kinds_here(), reason="nothing is compiled ahead for this architecture")
BEST, MIDDLE, LEAST = KINDS["x86_64"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in (BEST, MIDDLE, LEAST):
        put(tmp_path, kind.name)
    return tmp_path


def put(folder: Path, kind: str, *, digest: str | None = None) -> None:
    (folder / f"kernels-{(digest or source_digest())[:12]}-{kind}.so").touch()


def chosen(folder: Path) -> str | None:
    found = prebuilt_library(folder)
    return None if found is None else found.name.split("-", 2)[2].removesuffix(".so")


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        (BEST.features | {"amx_tile"}, BEST.name),
        (BEST.features - {"avx512_bf16"}, MIDDLE.name),
        (MIDDLE.features - {"avx512vl"}, LEAST.name),
        (LEAST.features - {"avx2"}, None),
    ],
)
def test_a_processor_gets_the_best_that_it_can_run(
    features: frozenset[str], kind: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebuilt, "processor_features", lambda: f"flags : {' '.join(features)}")
    assert chosen(folder) == kind


def test_what_other_sources_left_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "processor_features", lambda: " ".join(BEST.features))
    put(tmp_path, BEST.name, digest="0" * 64)
    assert chosen(tmp_path) is None
    put(tmp_path, LEAST.name)
    assert chosen(tmp_path) == LEAST.name


def test_without_a_compiler_the_kernels_are_those_compiled_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next((kind for kind in KINDS["x86_64"] if kind.features <= set(prebuilt.processor_features().split())), None)
    try:
        compiler = find_compiler()
    except NoNativeKernels as reason:
        pytest.skip(str(reason))
    assert kind is not None
    file = tmp_path / f"kernels-{source_digest()[:12]}-{kind.name}.so"
    compile_library(compiler, kind.flags, file, with_openmp=True)

    def fail(*, with_openmp: bool) -> Path:
        raise NoNativeKernels("no C compiler")

    monkeypatch.setattr(library, "build", fail)
    monkeypatch.setattr(library, "prebuilt_library", lambda: prebuilt_library(tmp_path))
    found = library.open_library.__wrapped__()
    assert isinstance(found, ctypes.CDLL)
    assert Path(found._name) == file
    assert found.penstock_has_fast_products(), "every kind that is compiled ahead has them"


@pytest.mark.parametrize("kind", KINDS["x86_64"], ids=lambda kind: kind.name)
def test_the_sources_of_every_kind_call_only_what_they_declare(kind: ProcessorKind) -> None:
    """A name that one kind's half of a file lacks is found when that processor loads the library, not here."""
    try:
        compiler = find_compiler()
    except NoNativeKernels as reason:
        pytest.skip(str(reason))
    flags = ["-std=gnu11", "-fsyntax-only", "-Wno-psabi", "-Werror=implicit-function-declaration", *kind.flags]
    checked = subprocess.run([*compiler, *flags, *map(str, SOURCES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
