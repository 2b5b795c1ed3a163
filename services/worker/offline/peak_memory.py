"""How much memory a computation takes on top of what was there: the device's own count, or the kernel's."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch

_RESET_PEAK = "5"
"""Written to `clear_refs` it sets the peak resident size to the present one (Linux, proc(5))."""


def peak_extra_bytes(compute: Callable[[], object], device: torch.device) -> int | None:
    """On a CPU resident memory; None where Linux is not."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        compute()
        return torch.cuda.max_memory_allocated(device) - before
    process = Path("/proc/self")
    try:
        _give_back_what_is_free()
        (process / "clear_refs").write_text(_RESET_PEAK)
        before = resident_bytes(process, "VmRSS")
        compute()
        return max(0, resident_bytes(process, "VmHWM") - before)
    except OSError:
        return None


def _give_back_what_is_free() -> None:
    """What the allocator kept would be used again without showing, or be given back meanwhile and hide as much."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def resident_bytes(process: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
