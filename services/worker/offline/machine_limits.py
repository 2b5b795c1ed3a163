"""What the machine can do at best, measured beside what we measure: reading memory and multiplying matrices.

Both with torch's own operators, the best of several runs: a limit is what is reached when nobody disturbs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_CPU_READ_BYTES, _GPU_READ_BYTES = 256 << 20, 2 << 30
_CPU_MATRIX, _GPU_MATRIX = 1536, 8192
_REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLimits:
    read_bytes_per_second: float
    multiply_per_second: float
    """Floating-point operations of a square matrix product, in the number type that was asked for."""


def measure_limits(device: torch.device, dtype: torch.dtype) -> MachineLimits:
    """Takes about a second. A sum reads more than the caches hold; a product is large enough to be computing only."""
    is_card = device.type == "cuda"
    words = torch.ones((_GPU_READ_BYTES if is_card else _CPU_READ_BYTES) // 4, dtype=torch.float32, device=device)
    read_seconds = best_seconds(lambda: words.sum(), device, repeats=_REPEATS)
    size = _GPU_MATRIX if is_card else _CPU_MATRIX
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    multiply_seconds = best_seconds(lambda: left @ right, device, repeats=_REPEATS)
    return MachineLimits(
        read_bytes_per_second=words.numel() * 4 / read_seconds, multiply_per_second=2 * size**3 / multiply_seconds
    )


def best_seconds(
    compute: Callable[[], object],
    device: torch.device,
    *,
    repeats: int,
    clock: Callable[[], float] | None = None,
) -> float:
    """The shortest of the repeats, behind one that is not counted."""
    clock = clock or clock_for(device)
    compute()
    times = []
    for _ in range(repeats):
        wait_for(device)
        started = clock()
        compute()
        wait_for(device)
        times.append(clock() - started)
    return min(times)


def clock_for(device: torch.device) -> Callable[[], float]:
    """With one thread on a CPU its processor time: what else the machine does then changes little."""
    return time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
