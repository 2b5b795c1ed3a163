"""Where one layer's keys and values lie. Knows neither sequences nor what is in the blocks."""

from dataclasses import dataclass

import torch

from services.worker.engine.attention.cell_layout import CellLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """`keys` and `values` [N, P, K, D]; `group` says which of a step's layouts has this layer's block tables.

    Where there are `cells` they are kept in low precision: uint8 [N, P, K, bytes of a cell].
    """

    keys: torch.Tensor
    values: torch.Tensor
    group: int
    cells: CellLayout | None = None
