"""A precision for every layer's keys and values, from what each costs alone: as few bytes as a budget allows.

Pure arithmetic: who measures is told what to measure. Costs are taken to add up, which is checked afterwards by
measuring the whole choice. Source: Dong et al. 2019 (HAWQ), section 3, sensitivity per layer; greedy instead of exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

SIXTEEN_BIT = "16bit"

Costs = Mapping[str, Sequence[float]]
"""By precision, for every layer: how much the mean surprise of the text grows when that layer alone has it, nats."""

Sizes = Mapping[str, int]
"""By precision: bytes of one token's keys and values in one layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`foretold`: the sum of the costs. `measured`: of the whole choice."""

    precisions: tuple[str, ...]
    foretold: float
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
    """From the smallest precision everywhere, the layer that gains most for a byte is raised until the budget holds.

    `measure` says what a choice costs as a whole. 16 bits everywhere cost nothing, so that this ends.
    """
    smallest = min(sizes, key=lambda name: sizes[name])
    num_layers = len(costs[smallest])
    chosen = [smallest] * num_layers
    while True:
        while _total(chosen, costs) > budget and _raise_one(chosen, costs, sizes):
            pass
        measured = measure(cascade(chosen))
        if measured <= budget or not _raise_one(chosen, costs, sizes):
            return Choice(precisions=tuple(chosen), foretold=_total(chosen, costs), measured=measured)


def _cost(costs: Costs, precision: str, layer: int) -> float:
    """What seems to help is noise."""
    return 0.0 if precision == SIXTEEN_BIT else max(0.0, costs[precision][layer])


def _total(chosen: Sequence[str], costs: Costs) -> float:
    return sum(_cost(costs, precision, layer) for layer, precision in enumerate(chosen))


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
