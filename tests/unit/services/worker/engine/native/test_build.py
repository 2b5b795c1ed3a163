"""Building the kernels: kept by content, and never in the way when it cannot be done."""

from pathlib import Path

import pytest
import torch

from services.worker.engine.native import library
from services.worker.engine.native.build import CACHE_VARIABLE, NoNativeKernels, build


def test_the_second_build_takes_what_the_first_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    try:
        first = build(with_openmp=False)
    except NoNativeKernels as reason:
        pytest.skip(str(reason))
    written = first.stat().st_mtime_ns
    assert build(with_openmp=False) == first
    assert first.stat().st_mtime_ns == written
    assert build(with_openmp=True) != first
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".so", ".so"]


def test_without_a_compiler_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoNativeKernels, match="no C compiler"):
        build(with_openmp=False)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(NoNativeKernels, match="no such flag"):
        build(with_openmp=False)


def test_types_without_kernels_have_none() -> None:
    assert library.load_kernels(torch.float16) is None


def test_where_nothing_can_be_built_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*, with_openmp: bool) -> Path:
        raise NoNativeKernels("no compiler")

    monkeypatch.setattr(library, "build", fail)
    assert library.open_library.__wrapped__() is None
