"""What this machine can do at most: bytes read and products a second. `python -m ...machine` prints it."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable

import torch

from services.worker.engine.models.linear import PackedLinear, onednn_packs_bfloat16
from services.worker.offline.machine_limits import measure_reading, ways_to_read


def best_seconds(work: Callable[[], object], *, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def read_bandwidth() -> float:
    """Bytes a second: the same limit that the engine's own benchmarks are measured against."""
    return measure_reading(torch.device("cpu"))


def product_rates(rows: int = 512) -> dict[str, float]:
    """Products and sums a second of torch's libraries, the best of two shapes.

    bfloat16 in oneDNN's own format, where it takes that, and float32, which some processors are faster with.
    """
    best = {"float32": 0.0}
    for columns, inner in ((4864, 896), (2048, 2048)):
        inputs, weight = torch.randn(rows, inner).bfloat16(), torch.randn(columns, inner).bfloat16()
        ways: dict[str, Callable[[], object]] = {
            "float32": functools.partial(torch.mm, inputs.float(), weight.float().t())
        }
        if onednn_packs_bfloat16():
            ways["bfloat16"] = functools.partial(PackedLinear(weight, None), inputs)
        for name, work in ways.items():
            best[name] = max(best.get(name, 0.0), 2 * rows * columns * inner / best_seconds(work))
    return best


def state_of_machine() -> dict[str, object]:
    return {"load_average": os.getloadavg(), "cores": os.cpu_count()}


if __name__ == "__main__":
    for name, rate in ways_to_read(torch.device("cpu")).items():
        sys.stdout.write(f"{name}: {rate / 1e9:.1f} GB/s\n")
    for name, rate in product_rates().items():
        sys.stdout.write(f"{name} products: {rate / 1e9:.0f} GFLOP/s\n")
