"""Where one layer's keys and values lie. Knows neither sequences nor what is in the blocks."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCache:
    """`keys` and `values` [N, P, K, D]; `group` says which of a step's layouts has this layer's block tables."""

    keys: torch.Tensor
    values: torch.Tensor
    group: int
