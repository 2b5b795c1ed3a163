"""Bfloat16 products by the instruction for pairs and by float32, in turns on the same weights.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bfloat16_products

Qwen2-0.5B's four matrices, twelve layers. Medians by the wall clock, with as many threads as torch has; which way the
engine takes is measured at its start (`native/library.py`).
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from services.worker.engine.models.linear import NativeLinear
from services.worker.engine.native.build import processor_features
from services.worker.engine.native.library import Products, load_products

_SHAPES = ((1152, 896), (896, 896), (9728, 896), (896, 4864))
_LAYERS = 12
_ROWS = (1, 2, 4, 8, 16, 32, 128, 512)
_WAYS = ("pairs", "float32")


def seconds_of(layers: list[NativeLinear], inputs: dict[int, torch.Tensor]) -> float:
    started = time.perf_counter()
    for layer in layers:
        layer(inputs[layer.num_inner])
    return time.perf_counter() - started


def measure(products: Products, layers: list[NativeLinear], rows: int) -> list[float]:
    """Median seconds of each way."""
    inputs = {inner: torch.randn(rows, inner).bfloat16() for _, inner in _SHAPES}
    found: list[list[float]] = [[], []]
    for _ in range(3 if rows > 100 else 9):
        for is_wide in (0, 1):
            products.use_wide(is_wide)
            found[is_wide].append(seconds_of(layers, inputs))
    return [statistics.median(one) for one in found]


def main() -> None:
    products = load_products()
    if products is None or "avx512f" not in processor_features():
        raise SystemExit("only processors with AVX-512 have both ways")
    layers = [
        NativeLinear(products, torch.randn(columns, inner).bfloat16(), None)
        for _ in range(_LAYERS)
        for columns, inner in _SHAPES
    ]
    values = sum(columns * inner for columns, inner in _SHAPES) * _LAYERS
    sys.stdout.write(f"{torch.get_num_threads()} threads, {2 * values / 1e6:.0f} MB of weights\n")
    sys.stdout.write("| rows | " + " | ".join(f"{way}: GB/s, GFLOP/s" for way in _WAYS) + " | |\n|---|---|---|---|\n")
    for rows in _ROWS:
        by_pairs, by_floats = measure(products, layers, rows)
        cells = [f"{2 * values / s / 1e9:.1f}, {2 * values * rows / s / 1e9:.0f}" for s in (by_pairs, by_floats)]
        sys.stdout.write(f"| {rows} | {' | '.join(cells)} | {by_pairs / by_floats:.2f} x |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
