"""The number of rows from which on expanding pays: found by the clock, and only where it pays at every size above."""

import torch

from services.worker.engine.models.expansion import measure_expansion
from services.worker.engine.models.quantized_native import NEVER


class Timed:
    """Moves its own clock: `cost` of (rows, is_expanded) seconds a call."""

    def __init__(self, pays_at: set[int]) -> None:
        self.expand_from_rows = NEVER
        self.now = 0.0
        self._pays_at = pays_at

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.shape[0]
        is_expanded = rows >= self.expand_from_rows
        self.now += 1.0 if is_expanded is (rows in self._pays_at) else 2.0
        return inputs

    def clock(self) -> float:
        return self.now


def test_it_is_the_smallest_size_from_which_on_it_always_pays() -> None:
    linear = Timed({8, 32, 64, 128})
    assert measure_expansion(linear, 16, clock=linear.clock) == 32
    assert linear.expand_from_rows == 32


def test_where_it_does_not_pay_for_many_rows_it_is_never_done() -> None:
    linear = Timed({8, 16})
    assert measure_expansion(linear, 16, clock=linear.clock) == NEVER
    assert linear.expand_from_rows == NEVER
