"""A linear layer for inference: weights laid out once for the machine, then only multiplied.

On CPU bfloat16 weights are packed: for our own kernel where the processor multiplies bfloat16 pairs (twice oneDNN's
speed for a few rows, as fast for many), else for oneDNN, which reaches the memory bandwidth where F.linear reaches
half of it. The plain tensor is dropped by whoever passes it in.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from services.worker.engine.native.library import load_matmul

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, columns of the weight] -> [rows, rows of the weight]."""

_LANES = 16


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, wide_output: bool = False) -> Linear:
    """`wide_output` asks for float32 products of 16-bit weights, without rounding on the way where that is free."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        matmul = load_matmul() if weight.shape[1] % 2 == 0 else None
        if matmul is not None:
            return NativeLinear(matmul, weight, bias, torch.float32 if wide_output else torch.bfloat16)
        if torch._C._has_mkldnn:
            return _widened(PackedLinear(weight, bias)) if wide_output else PackedLinear(weight, bias)
    return _widened(PlainLinear(weight, bias)) if wide_output else PlainLinear(weight, bias)


def _widened(linear: Linear) -> Linear:
    return lambda inputs: linear(inputs).float()


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


class NativeLinear:
    """Through matmul.c, which says how the weights lie."""

    def __init__(self, matmul: Any, weight: torch.Tensor, bias: torch.Tensor | None, output: torch.dtype) -> None:
        self._matmul = matmul
        self._num_columns, self._num_inner = weight.shape
        self._weight = _pack(weight)
        self._bias = None if bias is None else bias.contiguous()
        self._output = output

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.shape[0]
        inputs = inputs.contiguous()
        product = torch.empty((rows, self._num_columns), dtype=self._output)
        self._matmul(
            product.data_ptr(),
            inputs.data_ptr(),
            self._weight.data_ptr(),
            None if self._bias is None else self._bias.data_ptr(),
            rows,
            self._num_columns,
            self._num_inner,
            self._output is torch.float32,
        )
        return product


def _pack(weight: torch.Tensor) -> torch.Tensor:
    """[columns, inner] -> [columns / 16, inner / 2, 16, 2], columns rounded up with zeros."""
    columns, inner = weight.shape
    padded = functional.pad(weight, (0, 0, 0, -columns % _LANES))
    return padded.view(-1, _LANES, inner // 2, 2).transpose(1, 2).contiguous()
