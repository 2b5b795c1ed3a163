"""Quantized matrices for tests: every format, and shapes that do not fit what kernels like."""

import torch

from services.worker.engine.quantization.load_time import parse_rounding
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize, with_activations


def quantized_matrix(scheme: str, columns: int, inner: int, *, seed: int = 1) -> QuantizedTensor:
    """As `--quantization SCHEME` makes it; a row and a group of zeros are among the values."""
    rounding = parse_rounding(scheme)
    assert rounding is not None
    values = torch.randn(columns, inner, generator=torch.Generator().manual_seed(seed)) * 0.05
    values[columns // 2] = 0
    values[0, : inner // 2] = 0
    weight = quantize(values, rounding.weights)
    return weight if rounding.activations is None else with_activations(weight, rounding.activations)


def some_inputs(rows: int, inner: int, *, seed: int = 2) -> torch.Tensor:
    """bfloat16 [rows, inner] with an outlier column, as activations have, and a row of zeros where there is room."""
    inputs = torch.randn(rows, inner, generator=torch.Generator().manual_seed(seed))
    inputs[:, inner // 3] *= 30
    if rows > 2:
        inputs[2] = 0
    return inputs.bfloat16()
