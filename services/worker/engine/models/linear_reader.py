"""From the names of a checkpoint's matrices to one linear layer: plain, rounded now, or kept as it is stored.

Several projections of one input become one matrix. What stays in 16 bits in any case (norms, biases, the table of
embeddings, an expert's router) is not read here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from services.worker.engine.models.linear import Linear, make_linear
from services.worker.engine.models.quantized_linear import QuantizedLinears
from services.worker.engine.quantization.load_time import LoadTimeRounding
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor, can_join, join_rows
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import integers

ReadTensor = Callable[[str], torch.Tensor]
"""A checkpoint's tensor by its Hugging Face name, in the model's dtype and on its device."""

ReadQuantized = Callable[[str], QuantizedTensor | None]
"""A checkpoint's matrix in the precision it is stored in, on the CPU; None where that is a plain one."""

_HEAD_GROUP = 64


class LinearReader(Protocol):
    def layer(self, names: Sequence[str], bias: torch.Tensor | None) -> Linear:
        """The matrices `names`, above each other, [rows of all, columns]; `bias` [rows of all]."""

    def head(self, name: str) -> Linear:
        """The matrix behind the last layer, read after all layers; its products are float32."""


class PlainLinears:
    def __init__(self, read: ReadTensor) -> None:
        self._read = read

    def layer(self, names: Sequence[str], bias: torch.Tensor | None) -> Linear:
        return make_linear(torch.cat([self._read(name) for name in names]), bias)

    def head(self, name: str) -> Linear:
        return make_linear(self._read(name), None, wide_output=True)


class RoundedLinears:
    """Rounds 16-bit weights to nearest while it reads them."""

    def __init__(self, read: ReadTensor, rounding: LoadTimeRounding, kinds: QuantizedLinears) -> None:
        self._read = read
        self._rounding = rounding
        self._kinds = kinds

    def layer(self, names: Sequence[str], bias: torch.Tensor | None) -> Linear:
        weight = quantize(torch.cat([self._read(name) for name in names]), self._rounding.weights)
        return self._kinds.make(replace(weight, activations=self._rounding.activations), bias, wide_output=False)

    def head(self, name: str) -> Linear:
        weight = quantize(self._read(name), self._rounding.head)
        return self._kinds.make(replace(weight, activations=self._rounding.head_activations), None, wide_output=True)


class KeptLinears:
    """What is stored in low precision is multiplied in it; what is stored plain stays plain.

    With `rounds_head` a plain head becomes INT8 in groups, with inputs of 8 bits where layers have them: quantizers
    leave it in 16 bits, and in a small model it is a third of what a token reads.
    """

    def __init__(
        self, read: ReadTensor, read_quantized: ReadQuantized, kinds: QuantizedLinears, *, rounds_head: bool = False
    ) -> None:
        self._read = read
        self._read_quantized = read_quantized
        self._plain = PlainLinears(read)
        self._kinds = kinds
        self._rounds_head = rounds_head
        self._has_small_inputs = False

    def layer(self, names: Sequence[str], bias: torch.Tensor | None) -> Linear:
        stored = [self._read_quantized(name) for name in names]
        weights = [weight for weight in stored if weight is not None]
        if not weights:
            return self._plain.layer(names, bias)
        self._has_small_inputs |= any(weight.activations is not None for weight in weights)
        if len(weights) == len(stored) and can_join(weights):
            return self._kinds.make(join_rows(weights), bias, wide_output=False)
        products = [
            self._plain.layer([name], None) if weight is None else self._kinds.make(weight, None, wide_output=False)
            for name, weight in zip(names, stored, strict=True)
        ]
        return SideBySide(products, bias)

    def head(self, name: str) -> Linear:
        weight = self._read_quantized(name)
        if weight is None and self._rounds_head:
            plain = self._read(name)
            scheme = integers(8, group_size=None if plain.shape[1] % _HEAD_GROUP else _HEAD_GROUP)
            weight = replace(quantize(plain, scheme), activations=scheme if self._has_small_inputs else None)
        return self._plain.head(name) if weight is None else self._kinds.make(weight, None, wide_output=True)


class SideBySide:
    """Projections of one input that are no single matrix: files mix types (Q4_K_M keeps some values in Q6_K)."""

    def __init__(self, parts: list[Linear], bias: torch.Tensor | None) -> None:
        self._parts = parts
        self._bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product = torch.cat([part(inputs) for part in self._parts], dim=1)
        return product if self._bias is None else product + self._bias
