"""How a quantized linear layer lies in a checkpoint: the protocol that every foreign layout answers to.

A layout knows names, shapes and types of the parts of one layer and puts them together; it reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from services.worker.engine.checkpoints.tensor_shapes import Shape
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor

FLOATS = ("F32", "F16", "BF16")
"""Names of types as safetensors writes them."""


LAYERS = "model.layers."
"""What names of modules inside a layer begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stored tensor of a layer: any of these types, exactly one of these shapes."""

    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]
    is_optional: bool = False


class WeightLayout(Protocol):
    """Called while a checkpoint is opened (`parts`) and read (`assemble`), from one thread. Neither touches a file."""

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part] | None:
        """What stands in place of MODULE.weight of this shape, by suffix; None where the weight is stored plain.

        Raises QuantizationError where the shape does not fit the scheme.
        """

    def assemble(self, module: str, shape: tuple[int, int], stored: Mapping[str, torch.Tensor]) -> QuantizedTensor:
        """`stored` holds the parts that are there, checked against `parts`."""


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, words] -> uint8 [rows, words * 32 / bits]: the lowest bits of a word come first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    fields: torch.Tensor = (words[..., None] >> shifts) & (2**bits - 1)
    return fields.to(torch.uint8).flatten(1)
