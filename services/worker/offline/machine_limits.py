"""What the machine can do at best, measured beside what we measure: reading memory and multiplying matrices.

The best of several runs and ways: a limit is what is reached when nobody disturbs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from services.worker.engine.models.linear import onednn_packs_bfloat16
from services.worker.engine.native.read_library import load_sum_words

_CPU_READ_BYTES, _GPU_READ_BYTES = 256 << 20, 2 << 30
_CPU_MATRIX, _GPU_MATRIX = 1536, 8192
_REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLimits:
    read_bytes_per_second: float
    multiply_per_second: float
    """Floating-point operations of a square matrix product in the number type that was asked for; on a CPU in float32
    where that is faster."""


def measure_limits(device: torch.device, dtype: torch.dtype) -> MachineLimits:
    """Takes about a second. A product is large enough to be computing only."""
    is_card = device.type == "cuda"
    size = _GPU_MATRIX if is_card else _CPU_MATRIX
    left, right = torch.randn(2, size, size, device=device)
    dtypes = {dtype} if is_card else {dtype, torch.float32}
    if not is_card and not onednn_packs_bfloat16():
        dtypes.discard(torch.bfloat16)  # a loop, a hundred times slower
    seconds = min(_product_seconds(left.to(one), right.to(one)) for one in dtypes)
    return MachineLimits(read_bytes_per_second=measure_reading(device), multiply_per_second=2 * size**3 / seconds)


def _product_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    return best_seconds(lambda: left @ right, left.device, repeats=_REPEATS)


def measure_reading(device: torch.device) -> float:
    """Bytes a second by all threads, the better way of those there are."""
    return max(ways_to_read(device).values())


def ways_to_read(device: torch.device) -> dict[str, float]:
    """Bytes a second of more than the caches hold: torch's sum, on a CPU the native pass too."""
    num_bytes = _GPU_READ_BYTES if device.type == "cuda" else _CPU_READ_BYTES
    memory = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    ways: dict[str, Callable[[], object]] = {"torch's sum": memory.sum}
    sum_words = load_sum_words() if device.type == "cpu" else None
    if sum_words is not None:
        ways["native pass"] = partial(sum_words, memory)
    return {name: num_bytes / best_seconds(way, device, repeats=_REPEATS) for name, way in ways.items()}


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
