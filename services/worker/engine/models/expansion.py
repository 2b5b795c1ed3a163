"""From how many rows on it pays to look weights up once before they are multiplied: measured here, on this machine.

Both ways give the same bits, so that the answer may differ from start to start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

from services.worker.engine.models.quantized_native import NEVER

CANDIDATES = (2, 4, 8, 16, 32, 64, 128)
_REPEATS = 3


class Expandable(Protocol):
    expand_from_rows: int

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor: ...


def measure_expansion(
    linear: Expandable,
    num_inner: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Sets and returns the smallest number of rows from which on expanding was faster at every size tried, or NEVER."""
    found = NEVER
    for rows in reversed(CANDIDATES):
        inputs = torch.zeros(rows, num_inner, dtype=torch.bfloat16)
        if _seconds(linear, inputs, 1, clock) >= _seconds(linear, inputs, NEVER, clock):
            break
        found = rows
    linear.expand_from_rows = found
    return found


def _seconds(linear: Expandable, inputs: torch.Tensor, expand_from_rows: int, clock: Callable[[], float]) -> float:
    linear.expand_from_rows = expand_from_rows
    best = float("inf")
    for _ in range(_REPEATS):
        started = clock()
        linear(inputs)
        best = min(best, clock() - started)
    return best
