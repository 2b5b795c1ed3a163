"""A linear layer for inference: weights laid out once for the machine, then only multiplied.

On CPU bfloat16 weights are packed for oneDNN, which reaches the memory bandwidth where F.linear reaches half of
it. The plain tensor is dropped by whoever passes it in.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, columns of the weight] -> [rows, rows of the weight]."""


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch._C._has_mkldnn:
        return PackedLinear(weight, bias)
    return PlainLinear(weight, bias)


class PlainLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, self._weight, self._bias)


class PackedLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
        self._bias = bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self._multiply(inputs, self._weight, self._bias, "none", [], "")
        return product
