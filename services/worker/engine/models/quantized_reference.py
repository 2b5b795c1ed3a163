"""Products with quantized weights by the definition: dequantize, then multiply. What every kernel must equal.

Also what runs where no kernel does: other devices, float32 and float16 models, odd groups.
"""

import torch
from torch.nn import functional

from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import in_groups
from services.worker.engine.quantization.scheme import NumberFormat, QuantizationScheme

_LARGEST_FLOAT8 = {NumberFormat.FLOAT8_E4M3: torch.float8_e4m3fn, NumberFormat.FLOAT8_E5M2: torch.float8_e5m2}


def round_activations(inputs: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    """inputs [T, inner] -> float32 of the same shape, as symmetric `scheme` represents them, scales per token or group.

    What is not finite makes its whole group NaN.
    """
    groups = in_groups(inputs.float(), scheme)
    if scheme.number_format is NumberFormat.INTEGER:
        highest = float(scheme.highest)
    else:
        highest = torch.finfo(_LARGEST_FLOAT8[scheme.number_format]).max
    tiny = torch.finfo(torch.float32).tiny
    scales = (groups.abs().amax(dim=-1, keepdim=True) / highest).clamp(min=tiny)
    scaled = (groups / scales).clamp(-highest, highest)
    if scheme.number_format is NumberFormat.INTEGER:
        numbers = scaled.round()
    else:
        numbers = scaled.to(_LARGEST_FLOAT8[scheme.number_format]).float()
    poison = (groups * 0).sum(dim=-1, keepdim=True)
    return (numbers * scales + poison).reshape(inputs.shape)


class DequantizingLinear:
    """[T, inner] -> [T, rows of the weight], summed in float32 and rounded once to the inputs' dtype."""

    name = "dequantize"

    def __init__(self, weight: QuantizedTensor, bias: torch.Tensor | None, *, wide_output: bool) -> None:
        self._weight = weight
        self._bias = None if bias is None else bias.float()
        self._wide_output = wide_output

    @property
    def num_bytes(self) -> int:
        return self._weight.num_bytes

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        activations = self._weight.activations
        rounded = inputs.float() if activations is None else round_activations(inputs, activations)
        product = functional.linear(rounded, self._weight.dequantize(), self._bias)
        return product if self._wide_output else product.to(inputs.dtype)
