"""The tensors of a paged cache: one for every precision, cut into the layers' parts. Knows sizes, no sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.attention.key_frame import KeyFrame
from services.worker.engine.attention.layer_cache import LayerCache
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.kv_cache.cell_format import CellFormat
from services.worker.engine.kv_cache.layer_groups import LayerGroups

_CACHE_LINE_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What a block holds: one part for every place, [2, P, K, D] numbers of `dtype` or [2, P, K, bytes] of cells.

    `cells` is in the order of places; None is plain numbers.
    """

    cells: tuple[CellLayout | None, ...]
    block_size_tokens: int
    num_kv_heads: int
    head_size: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        plain = self.head_size * self.dtype.itemsize
        per_token = sum(plain if cells is None else cells.num_bytes for cells in self.cells)
        return 2 * self.block_size_tokens * self.num_kv_heads * per_token


def cache_shape(
    config: DecoderConfig,
    groups: LayerGroups,
    formats: Sequence[CellFormat | None] | None = None,
    *,
    block_size_tokens: int,
    dtype: torch.dtype,
) -> CacheShape:
    """`formats` of the layers in turn, None: all plain.

    Raises ValueError where layers that share a place differ: a block is as large for every group.
    """
    formats = formats or [None] * config.num_layers
    if len(groups.groups) > 1 and len(set(formats)) > 1:
        raise ValueError("a KV cache of several precisions needs a model whose layers all see equally far")
    first = groups.groups[0].layers
    of_places = [formats[layer] for layer in first] if len(set(formats)) > 1 else [formats[0]] * groups.layers_per_block
    return CacheShape(
        cells=tuple(
            None if cell_format is None else CellLayout(format=cell_format, head_size=config.head_size)
            for cell_format in of_places
        ),
        block_size_tokens=block_size_tokens,
        num_kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        dtype=dtype,
    )


class CacheMemory:
    """`layers`: every layer's part, in turn."""

    def __init__(self, shape: CacheShape, groups: LayerGroups, *, num_blocks: int, device: torch.device) -> None:
        self._stacks: list[torch.Tensor] = []
        places: dict[int, LayerCache] = {}
        for cells in dict.fromkeys(shape.cells):
            own = [place for place, other in enumerate(shape.cells) if other == cells]
            width, dtype = (shape.head_size, shape.dtype) if cells is None else (cells.num_bytes, torch.uint8)
            size = (len(own), 2, num_blocks, shape.block_size_tokens, shape.num_kv_heads, width)
            stack = zeros(size, dtype=dtype, device=device)
            self._stacks.append(stack)
            for index, place in enumerate(own):
                places[place] = LayerCache(keys=stack[index, 0], values=stack[index, 1], group=0, cells=cells)
        of_layers = {
            layer: LayerCache(
                keys=places[place].keys, values=places[place].values, group=number, cells=places[place].cells
            )
            for number, group in enumerate(groups.groups)
            for place, layer in enumerate(group.layers)
        }
        self.layers = [of_layers[layer] for layer in sorted(of_layers)]

    def use_frames(self, frames: Sequence[KeyFrame | None]) -> None:
        """Of the layers in turn; before anything is written."""
        self.layers = [replace(layer, frame=frame) for layer, frame in zip(self.layers, frames, strict=True)]

    def copy_blocks(self, sources: torch.Tensor, destinations: torch.Tensor) -> None:
        """Blocks `sources` [n] int64 to `destinations` [n], in every layer."""
        for stack in self._stacks:
            stack.index_copy_(2, destinations, stack.index_select(2, sources))


def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, not empty: attention may read a padded cell before anybody wrote it, and 0 * NaN is NaN.

    On a CPU by way of numpy, which takes zero pages from the kernel: memory is used when a block is, and a cache of
    gigabytes costs no time at the start (torch.zeros writes every page). Aligned to a cache line, as torch's own are.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.zeros(num_bytes + _CACHE_LINE_BYTES, dtype=np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE_BYTES
    return torch.from_numpy(memory[start : start + num_bytes]).view(dtype).view(shape)
