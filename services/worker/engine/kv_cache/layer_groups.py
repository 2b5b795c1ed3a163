"""Which layers share a block table: those that see equally far, in groups of one size.

A block holds the keys and values of one group's layers. All groups are equally large, so that every block is, and one
pool serves layers that see everything as well as layers that slide, in whatever proportion the sequences need. The last
group of a kind may have fewer layers than places: that memory is the price, and the size is chosen to keep it small.

Source: vLLM's hybrid KV cache manager has the same idea of equal groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_GROUPS = 8
"""Every group costs bookkeeping in each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroups:
    """`layers_per_block`: places for layers in a block; no group has more."""

    groups: tuple[LayerGroup, ...]
    layers_per_block: int

    @property
    def windows(self) -> tuple[int | None, ...]:
        return tuple(group.window for group in self.groups)


def group_layers(windows: Sequence[int | None], *, max_model_tokens: int) -> LayerGroups:
    """`windows` of the layers in turn. A window that no sequence can leave is none."""
    by_window: dict[int | None, list[int]] = {}
    for layer, window in enumerate(windows):
        sees_all = window is None or window >= max_model_tokens
        by_window.setdefault(None if sees_all else window, []).append(layer)
    widest = max(by_window, key=lambda window: math.inf if window is None else window)
    size = _group_size([len(layers) for layers in by_window.values()], num_widest=len(by_window[widest]))
    groups = tuple(
        LayerGroup(window=window, layers=tuple(layers[start : start + size]))
        for window, layers in by_window.items()
        for start in range(0, len(layers), size)
    )
    return LayerGroups(groups=groups, layers_per_block=size)


def _group_size(counts: list[int], *, num_widest: int) -> int:
    """The one that leaves no places empty among the layers that see farthest, which hold the most blocks; then few
    among all; of these the largest, which makes the fewest groups."""

    def num_groups(size: int) -> int:
        return sum(-(-count // size) for count in counts)

    most = max(_MOST_GROUPS, len(counts))
    sizes = [size for size in range(1, max(counts) + 1) if num_groups(size) <= most]
    return min(sizes, key=lambda size: (-num_widest % size, num_groups(size) * size, -size))
