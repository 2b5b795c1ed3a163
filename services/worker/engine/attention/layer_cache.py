"""Where one layer's keys and values lie. Knows neither sequences nor what is in the blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.kv_cache.cell_format import CellFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """`keys` and `values` [N, P, K, D]; `group` says which of a step's layouts has this layer's block tables.

    Where there are `cells` they are kept in low precision: uint8 [N, P, K, bytes of a cell]. Where there is a `frame`,
    too, keys lie in it, and queries have to be brought into it.
    """

    keys: torch.Tensor
    values: torch.Tensor
    group: int
    cells: CellLayout | None = None
    frame: KeyFrame | None = None

    def drafts_view(self) -> LayerCache:
        """The same memory as a draft reads it: of INT8 cells the upper halves."""
        if self.cells is None or self.cells.format is not CellFormat.INT8:
            return self
        return replace(self, cells=replace(self.cells, format=CellFormat.INT8_UPPER))
