"""Attention over a cache of low precision: writes cells, reads single tokens' contexts in registers where it can.

Everything else (chunks of prompts, other devices, backends named by hand) reads the blocks of its sequences back into
the model's type and leaves them to the backend for plain caches. Both ways see the same numbers.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.attention.triton_cells import TritonCells
from services.worker.engine.native.quantized_library import QuantizedKernels

_KERNEL_DTYPES = (torch.float32, torch.bfloat16)


class LowPrecisionAttention:
    """`kernels` and `triton` None: nothing but torch. One of them at most: they are of different devices."""

    def __init__(
        self, plain: AttentionBackend, kernels: QuantizedKernels | None, triton: TritonCells | None = None
    ) -> None:
        self._plain = plain
        self._kernels = kernels
        self._triton = triton

    def store(
        self, cells: CellLayout, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor
    ) -> None:
        """keys and values [T, K, D], rotated, into the cells `slots` [T] of the layer."""
        for target, source in ((cache.keys, keys), (cache.values, values)):
            if self._triton is not None:
                self._triton.write(target, source, slots, cells)
                continue
            if self._kernels is None or source.dtype not in _KERNEL_DTYPES:
                target.view(-1, *target.shape[2:])[slots] = cells.encode(source)
                continue
            num_tokens, num_kv_heads, head_size = source.shape
            self._kernels.write_cells(
                target.data_ptr(),
                source.data_ptr(),
                slots.data_ptr(),
                num_tokens,
                num_kv_heads,
                head_size,
                cells.num_bytes,
                cells.format,
                source.dtype is torch.float32,
            )

    def attend(
        self, queries: torch.Tensor, cells: CellLayout, cache: LayerCache, layout: StepLayout, rule: AttentionRule
    ) -> torch.Tensor:
        """queries [T, H, D] -> [T, H * D], as `AttentionBackend.attend` on what the cells say."""
        has_kernels = self._triton is not None or (self._kernels is not None and queries.dtype in _KERNEL_DTYPES)
        if not has_kernels or not layout.num_single:
            return self._read_back(queries, cells, cache, layout, rule)
        output = torch.empty_like(queries).flatten(1)
        if self._triton is not None:
            singles = queries[: layout.num_single]
            output[: layout.num_single] = self._triton.attend(singles, cells, cache, layout, rule)
        elif self._kernels is not None:
            self._attend_single(output, queries, self._kernels, cells, cache, layout, rule)
        if layout.num_single < layout.num_sequences:
            chunks = _from_sequence(layout, layout.num_single)
            output[layout.num_single :] = self._read_back(queries[layout.num_single :], cells, cache, chunks, rule)
        return output

    def _attend_single(
        self,
        output: torch.Tensor,
        queries: torch.Tensor,
        kernels: QuantizedKernels,
        cells: CellLayout,
        cache: LayerCache,
        layout: StepLayout,
        rule: AttentionRule,
    ) -> None:
        kernels.attend_cells(
            output.data_ptr(),
            queries.data_ptr(),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            layout.block_tables.data_ptr(),
            layout.context_lengths.data_ptr(),
            layout.num_single,
            layout.block_tables.shape[1],
            layout.block_size_tokens,
            queries.shape[1],
            cache.keys.shape[2],
            queries.shape[2],
            cells.num_bytes,
            cells.format,
            queries.dtype is torch.float32,
            rule.window or 0,
            rule.scale,
            rule.soft_cap or 0.0,
        )

    def _read_back(
        self, queries: torch.Tensor, cells: CellLayout, cache: LayerCache, layout: StepLayout, rule: AttentionRule
    ) -> torch.Tensor:
        blocks, places = torch.unique(layout.block_tables, return_inverse=True)
        keys = cells.decode(cache.keys[blocks.long()], queries.dtype)
        values = cells.decode(cache.values[blocks.long()], queries.dtype)
        own = replace(layout, block_tables=places.view(layout.block_tables.shape).to(torch.int32))
        return self._plain.attend(queries, keys, values, own, rule)


def _from_sequence(layout: StepLayout, first: int) -> StepLayout:
    """The layout of the sequences from `first` on, none of which has a single token."""
    begin = layout.query_start_list[first]
    return replace(
        layout,
        positions=layout.positions[begin:],
        slots=layout.slots[begin:],
        block_tables=layout.block_tables[first:].contiguous(),
        context_lengths=layout.context_lengths[first:],
        query_starts=layout.query_starts[first:] - begin,
        context_length_list=layout.context_length_list[first:],
        query_start_list=[start - begin for start in layout.query_start_list[first:]],
        num_single=0,
        run_starts=None,
    )
