"""A precision for every layer's keys and values, from what each costs alone: as few bytes as a budget allows.

Pure arithmetic: who measures is told what to measure. What layers cost alone only ranks them: it neither adds up nor is
it what the budget is in. That holds for whole choices, which are measured. Source: Dong et al. 2019 (HAWQ), section 3,
sensitivity per layer; greedy instead of exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

SIXTEEN_BIT = "16bit"

Costs = Mapping[str, Sequence[float]]
"""By precision, for every layer: how far the model is from itself when that layer alone has it, KL in nats."""

Sizes = Mapping[str, int]
"""By precision: bytes of one token's keys and values in one layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`measured`: of the whole choice, in the budget's unit."""

    precisions: tuple[str, ...]
    measured: float

    @property
    def name(self) -> str:
        """As `--kv-cache` takes it."""
        return cascade(self.precisions)


def cascade(precisions: Sequence[str]) -> str:
    """`int4*3,16bit*1,int8*26`; one part alone is just its name."""
    parts = [(name, len(list(layers))) for name, layers in groupby(precisions)]
    return parts[0][0] if len(parts) == 1 else ",".join(f"{name}*{count}" for name, count in parts)


def choose(costs: Costs, sizes: Sizes, *, budget: float, measure: Callable[[str], float]) -> Choice:
    """From the smallest precision everywhere, the layer that gains most for a byte is raised, then the next, up to 16
    bits everywhere. Of these choices the first that holds the budget, found by halving.

    `measure` says what a choice costs as a whole; 16 bits everywhere cost nothing.
    """
    steps = _steps(costs, sizes)
    measured = {len(steps) - 1: 0.0}
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        measured[middle] = measure(cascade(steps[middle]))
        if measured[middle] <= budget:
            high = middle
        else:
            low = middle + 1
    return Choice(precisions=steps[high], measured=measured[high])


def _steps(costs: Costs, sizes: Sizes) -> list[tuple[str, ...]]:
    smallest = min(sizes, key=lambda name: sizes[name])
    chosen = [smallest] * len(costs[smallest])
    steps = [tuple(chosen)]
    while _raise_one(chosen, costs, sizes):
        steps.append(tuple(chosen))
    return steps


def _cost(costs: Costs, precision: str, layer: int) -> float:
    """16 bits are what is compared with."""
    return 0.0 if precision == SIXTEEN_BIT else costs[precision][layer]


def _raise_one(chosen: list[str], costs: Costs, sizes: Sizes) -> bool:
    """False when every layer has 16 bits."""
    moves = [
        ((_cost(costs, now, layer) - _cost(costs, then, layer)) / (sizes[then] - sizes[now]), -layer, then)
        for layer, now in enumerate(chosen)
        for then in sizes
        if sizes[then] > sizes[now]
    ]
    if not moves:
        return False
    _, layer, then = max(moves)
    chosen[-layer] = then
    return True
