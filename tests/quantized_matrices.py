"""Quantized matrices for tests: every format, and shapes that do not fit what kernels like."""

import torch

from services.worker.engine.quantization.load_time import parse_rounding
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize, with_activations
from services.worker.engine.quantization.scheme import integers


def quantized_matrix(scheme: str, columns: int, inner: int, *, seed: int = 1) -> QuantizedTensor:
    """As `--quantization SCHEME` makes it; a row and a group of zeros are among the values."""
    rounding = parse_rounding(scheme)
    assert rounding is not None
    weight = quantize(_some_weights(columns, inner, seed), rounding.weights)
    return weight if rounding.activations is None else with_activations(weight, rounding.activations)


def six_bit_matrix(columns: int, inner: int, group_size: int, *, is_symmetric: bool = True) -> QuantizedTensor:
    """Bytes of which six bits are used, inputs of 8 bits."""
    scheme = integers(8, group_size=group_size, is_symmetric=is_symmetric, used_bits=6)
    weight = quantize(_some_weights(columns, inner, 1), scheme)
    return with_activations(weight, integers(8, group_size=group_size))


def _some_weights(columns: int, inner: int, seed: int) -> torch.Tensor:
    values = torch.randn(columns, inner, generator=torch.Generator().manual_seed(seed)) * 0.05
    values[columns // 2] = 0
    values[0, : inner // 2] = 0
    return values


def some_inputs(rows: int, inner: int, *, seed: int = 2) -> torch.Tensor:
    """bfloat16 [rows, inner] with an outlier column, as activations have, and a row of zeros where there is room."""
    inputs = torch.randn(rows, inner, generator=torch.Generator().manual_seed(seed))
    inputs[:, inner // 3] *= 30
    if rows > 2:
        inputs[2] = 0
    return inputs.bfloat16()
