"""Jaeger and a collector from their Go module, built once into a cache outside the repository.

`python -m tests.go_programs.build` builds them beforehand. Versions are those of go.mod and go.sum beside this file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from services.cli.embedded.kafka_jars import default_cache_directory

_MODULE = Path(__file__).parent / "jaeger"
_FILES = ("go.mod", "go.sum", "programs.go")
_BUILD_SECONDS = 3_600
NEEDS_GO = "Jaeger is built from its Go module: install Go 1.23 or later (Debian 13: apt-get install golang-go)"
PROGRAMS = {
    "jaeger-all-in-one": "github.com/jaegertracing/jaeger/cmd/all-in-one",
    "jaeger-collector": "github.com/jaegertracing/jaeger/cmd/jaeger",
}


class GoMissing(RuntimeError):
    """The program is not in the cache and nothing here can build it."""


def program(name: str) -> Path:
    """The built program, from the cache or built now (minutes). Raises `GoMissing`."""
    built = _cache() / name
    if not built.exists():
        _build()
    return built


def is_built() -> bool:
    return all((_cache() / name).exists() for name in PROGRAMS)


def _cache() -> Path:
    fingerprint = hashlib.sha256(b"".join((_MODULE / name).read_bytes() for name in _FILES)).hexdigest()[:12]
    return default_cache_directory() / "go" / fingerprint


def _build() -> None:
    if shutil.which("go") is None:
        raise GoMissing(NEEDS_GO)
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        for name in _FILES:
            shutil.copy(_MODULE / name, folder)
        for name, package in PROGRAMS.items():
            print(f"building {name} (once, minutes)", file=sys.stderr, flush=True)
            command = ["go", "build", "-mod=mod", "-ldflags", "-s -w", "-o", f"{folder}/{name}", package]
            environment = {**os.environ, "CGO_ENABLED": "0"}  # so that it runs in any container
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_BUILD_SECONDS,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2_000:]}")
            (Path(folder) / name).replace(cache / name)


if __name__ == "__main__":
    for each in PROGRAMS:
        print(program(each))
