"""A cache of low precision on CUDA through our Triton kernels, for the single tokens of `LowPrecisionAttention`.

Importing this imports no Triton; making `TritonCells` does.
"""

import torch

from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.cell_layout import INT4_SPAN, CellLayout
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.step_layout import StepLayout


class TritonCells:
    def __init__(self) -> None:
        # Triton is only there where torch is the CUDA build.
        from services.worker.engine.triton_kernels.cell_attention import attend_cells, write_cells

        self._attend = attend_cells
        self._write = write_cells

    def write(self, target: torch.Tensor, source: torch.Tensor, slots: torch.Tensor, cells: CellLayout) -> None:
        self._write(target, source, slots, cell_format=int(cells.format), span=INT4_SPAN)

    def attend(
        self, queries: torch.Tensor, cells: CellLayout, cache: LayerCache, layout: StepLayout, rule: AttentionRule
    ) -> torch.Tensor:
        """queries [S, H, D] of the step's single tokens -> [S, H * D]."""
        tables, contexts = layout.block_tables[: len(queries)], layout.context_lengths[: len(queries)]
        attended: torch.Tensor = self._attend(
            queries,
            cache.keys,
            cache.values,
            tables,
            contexts,
            cell_format=int(cells.format),
            span=INT4_SPAN,
            scale=rule.scale,
            window=rule.window,
            soft_cap=rule.soft_cap,
        )
        return attended.flatten(1)
