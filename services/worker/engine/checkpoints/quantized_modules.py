"""The quantized layers of a directory: which tensors stand in place of a weight, and reading them as one value.

Everything that headers can tell is checked at once, by the names of module and part; values only when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.safetensors_files import SafetensorsReader, StoredTensor
from services.worker.engine.checkpoints.tensor_shapes import Shape
from services.worker.engine.checkpoints.weight_layout import FLOATS, Part, WeightLayout
from services.worker.engine.quantization.quantization_error import QuantizationError
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor

_WEIGHT = ".weight"
_BIAS = ".bias"


class QuantizedModules:
    """With no layout there are none. Raises CheckpointError."""

    def __init__(
        self,
        layout: WeightLayout | None,
        reader: SafetensorsReader,
        expected: Mapping[str, Shape],
        directory: Path,
    ) -> None:
        self._layout = layout
        self._reader = reader
        self._expected = expected
        self._directory = directory
        self._shapes: dict[str, tuple[int, int]] = {}
        self._parts: dict[str, dict[str, Part]] = {}
        for name, shape in expected.items():
            if layout is not None and name.endswith(_WEIGHT) and len(shape) == 2:
                self._find(layout, name.removesuffix(_WEIGHT), (shape[0], shape[1]))

    def logical_tensors(self) -> dict[str, tuple[Path, Shape]]:
        """The weights that the parts stand for, under the names that a plain checkpoint would have."""
        return {module + _WEIGHT: (self._directory, shape) for module, shape in self._shapes.items()}

    def plain_tensors(self) -> dict[str, StoredTensor]:
        """All that are no part of a quantized weight. Some packers add biases of zeros: those are left out."""
        ours = {f"{module}.{suffix}" for module, parts in self._parts.items() for suffix in parts}
        ours |= {f"{module}{_BIAS}" for module in self._parts if self._has_empty_bias(module)}
        plain = {name: stored for name, stored in self._reader.stored.items() if name not in ours}
        for name, stored in plain.items():
            if name in self._expected and stored.dtype not in FLOATS:
                raise CheckpointError(stored.file, f"dtype {stored.dtype} is not supported here", subject=name)
        return plain

    def read(self, name: str) -> QuantizedTensor | None:
        """None for a tensor that is stored plain."""
        module = name.removesuffix(_WEIGHT)
        if self._layout is None or module not in self._parts or not name.endswith(_WEIGHT):
            return None
        stored = {
            suffix: self._reader.read(f"{module}.{suffix}")
            for suffix in self._parts[module]
            if f"{module}.{suffix}" in self._reader.stored
        }
        try:
            tensor = self._layout.assemble(module, self._shapes[module], stored)
        except QuantizationError as error:
            raise CheckpointError(self._directory, str(error), subject=module) from error
        if not bool(torch.isfinite(tensor.scales.float()).all()):
            raise CheckpointError(self._directory, "a scale is not a finite number", subject=module)
        return tensor

    def _find(self, layout: WeightLayout, module: str, shape: tuple[int, int]) -> None:
        try:
            parts = layout.parts(module, shape)
        except QuantizationError as error:
            raise CheckpointError(self._directory, str(error), subject=module) from error
        if parts is None:
            return
        for suffix, part in parts.items():
            self._check(f"{module}.{suffix}", part)
        self._parts[module] = dict(parts)
        self._shapes[module] = shape

    def _check(self, name: str, part: Part) -> None:
        stored = self._reader.stored.get(name)
        if stored is None:
            if part.is_optional:
                return
            raise CheckpointError(self._directory, "the part of a quantized weight is missing", subject=name)
        if stored.dtype not in part.dtypes:
            raise CheckpointError(stored.file, f"dtype is {stored.dtype}, must be {part.dtypes[0]}", subject=name)
        if stored.shape not in part.shapes:
            raise CheckpointError(stored.file, f"shape is {stored.shape}, must be {part.shapes[0]}", subject=name)

    def _has_empty_bias(self, module: str) -> bool:
        name = module + _BIAS
        if name in self._expected or name not in self._reader.stored:
            return False
        return not bool(self._reader.read(name).any())
