"""Which product a quantized matrix gets on this machine; the one place that chooses.

All of them equal `DequantizingLinear` up to the rounding of sums; none lets a row's result depend on its batch.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import torch

from services.worker.engine.models.expansion import measure_expansion
from services.worker.engine.models.quantized_native import (
    NEVER,
    IntegerLinear,
    TableLinear,
    can_look_up,
    can_multiply_integers,
)
from services.worker.engine.models.quantized_reference import DequantizingLinear
from services.worker.engine.models.quantized_triton import TritonLinear, can_run_on_triton
from services.worker.engine.native.quantized_library import load_quantized_kernels
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import NumberFormat
from services.worker.engine.triton_kernels.availability import why_no_triton


class QuantizedLinear(Protocol):
    """Called by the decoder, from the engine's thread."""

    name: str

    @property
    def num_bytes(self) -> int:
        """Of codes, scales and offsets as they are kept for the product."""

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """[rows, columns of the weight], the model's dtype -> [rows, rows of the weight], that dtype or float32."""


class QuantizedLinears:
    """Makes them for one model: what was measured once holds for all matrices of a kind."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._kernels = load_quantized_kernels() if device.type == "cpu" else None
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        self._has_triton = device.type == "cuda" and not why_no_triton(device, capability)
        self._expand_from_rows: dict[tuple[int, bool], int] = {}
        self._counts: dict[str, int] = {}
        self._schemes: Counter[str] = Counter()
        self._num_bytes = 0

    def make(self, weight: QuantizedTensor, bias: torch.Tensor | None, *, wide_output: bool) -> QuantizedLinear:
        linear = self._choose(weight, bias, wide_output)
        self._counts[linear.name] = self._counts.get(linear.name, 0) + 1
        self._schemes[_described(weight)] += 1
        self._num_bytes += linear.num_bytes
        return linear

    @property
    def weights(self) -> str:
        """What most matrices are kept in: `int4-g64-asym`, `-a8` where inputs are rounded, too; empty without any."""
        return self._schemes.most_common(1)[0][0] if self._schemes else ""

    @property
    def note(self) -> str:
        """For the log: how many matrices of which kind, their size, and what was measured; empty without any."""
        if not self._counts:
            return ""
        counts = ", ".join(f"{count} by {name}" for name, count in sorted(self._counts.items()))
        rows = sorted(set(self._expand_from_rows.values()))
        expanded = "".join(f", looked up once from {row} rows on" for row in rows if row != NEVER)
        return f"{counts}{expanded}; {self._num_bytes / 1e6:.0f} MB"

    def _choose(self, weight: QuantizedTensor, bias: torch.Tensor | None, wide_output: bool) -> QuantizedLinear:
        if self._kernels is not None and can_multiply_integers(weight, self._dtype):
            return IntegerLinear(self._kernels, weight, bias, wide_output=wide_output)
        if self._kernels is not None and can_look_up(weight, self._dtype):
            linear = TableLinear(self._kernels, weight, bias, wide_output=wide_output)
            kind = (weight.scheme.bits, weight.zero_points is None and weight.minimums is None)
            if kind not in self._expand_from_rows:
                self._expand_from_rows[kind] = measure_expansion(linear, weight.shape[1])
            linear.expand_from_rows = self._expand_from_rows[kind]
            return linear
        if self._has_triton and can_run_on_triton(weight, self._dtype):
            return TritonLinear(weight, bias, device=self._device, wide_output=wide_output)
        return DequantizingLinear(weight.to(self._device), bias, wide_output=wide_output)


def _described(weight: QuantizedTensor) -> str:
    scheme = weight.scheme
    is_integer = scheme.number_format is NumberFormat.INTEGER
    group = "" if scheme.group_size is None else f"-g{scheme.group_size}"
    # A minimum (GGUF's Q4_1 and Q4_K) is a zero point that is a float.
    asymmetric = "" if weight.zero_points is None and weight.minimums is None else "-asym"
    activations = "" if weight.activations is None else f"-a{weight.activations.bits}"
    name = f"int{scheme.bits}" if is_integer else "fp8" if "e4m3" in scheme.number_format else "fp8e5m2"
    return f"{name}{group}{asymmetric}{activations}"
