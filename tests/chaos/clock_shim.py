"""Builds the library that puts one process's wall clock off. None where there is no C compiler or no LD_PRELOAD."""

import shutil
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shim.c")


def build_clock_shim(directory: Path) -> Path | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "clock_shim.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    return library if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None
