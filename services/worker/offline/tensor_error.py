"""What rounding does to one known tensor: sin(0.001 i), i < 10,000, beside what theory says.

A value that may lie anywhere between two steps of size s is wrong by s^2 / 12 in the mean square (Widrow 1956).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import Granularity, QuantizationScheme

NUM_VALUES = 10_000
BITS = (8, 4, 2)
GROUP_SIZES = (None, 125, 50)
"""125 and 50 divide 10,000; the customary 128, 64 and 32 do not all do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorError:
    """`scale` is the mean of all scales, `analytic` the mean of s^2 / 12; `sqnr_decibels` signal over error."""

    bits: int
    group_size: int | None
    scale: float
    mean_squared: float
    analytic: float
    mean_absolute: float
    largest: float
    sqnr_decibels: float


def sine() -> torch.Tensor:
    """[1, 10,000] float64."""
    return torch.sin(0.001 * torch.arange(NUM_VALUES, dtype=torch.float64))[None]


def measure_tensor_error(values: torch.Tensor, bits: int, group_size: int | None) -> TensorError:
    """values [1, columns], rounded symmetrically per tensor or per group; errors are taken in float64."""
    scheme = QuantizationScheme(
        bits=bits,
        granularity=Granularity.TENSOR if group_size is None else Granularity.GROUP,
        group_size=group_size,
    )
    quantized = quantize(values, scheme)
    error = quantized.dequantize().double() - values.double()
    mean_squared = float(error.pow(2).mean())
    scales = quantized.scales.double()
    return TensorError(
        bits=bits,
        group_size=group_size,
        scale=float(scales.mean()),
        mean_squared=mean_squared,
        analytic=float(scales.pow(2).mean() / 12),
        mean_absolute=float(error.abs().mean()),
        largest=float(error.abs().max()),
        sqnr_decibels=float(10 * torch.log10(values.double().pow(2).mean() / mean_squared)),
    )


def tensor_errors() -> list[TensorError]:
    values = sine()
    return [measure_tensor_error(values, bits, group_size) for bits in BITS for group_size in GROUP_SIZES]
