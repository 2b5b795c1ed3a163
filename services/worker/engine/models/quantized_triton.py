"""Quantized linear layers on CUDA through our Triton kernels. Equal to `DequantizingLinear` up to the rounding of sums.

Importing this imports no Triton; making a `TritonLinear` does.
"""

from __future__ import annotations

import torch

from services.worker.engine.models.kernel_layout import common_group_size, permutation
from services.worker.engine.models.quantized_reference import round_activations
from services.worker.engine.quantization.packing import pack_codes, unpack_codes
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import NumberFormat

_FLOAT8 = {NumberFormat.FLOAT8_E4M3: "e4m3", NumberFormat.FLOAT8_E5M2: "e5m2", NumberFormat.INTEGER: ""}
_INNER_STEP, _INTEGER_INNER_STEP = 16, 32
"""Tensor cores multiply that many inner values at once; a group is a whole number of them."""
_DTYPES = (torch.bfloat16, torch.float16)


def can_run_on_triton(weight: QuantizedTensor, dtype: torch.dtype) -> bool:
    group_size = common_group_size(weight)
    step = _INTEGER_INNER_STEP if _multiplies_integers(weight) else _INNER_STEP
    return dtype in _DTYPES and group_size is not None and group_size % step == 0


class TritonLinear:
    """8-bit inputs are integer products, where that is what the weight asks for."""

    name = "triton"

    def __init__(
        self, weight: QuantizedTensor, bias: torch.Tensor | None, *, device: torch.device, wide_output: bool
    ) -> None:
        # Triton is only there where torch is the CUDA build.
        from services.worker.engine.triton_kernels import coded_matmul

        group_size = common_group_size(weight)
        assert group_size is not None, "callers ask `can_run_on_triton`"
        columns, inner = weight.shape
        self._kernels = coded_matmul
        self._num_groups = inner // group_size
        self._num_columns, self._bits = columns, weight.scheme.bits
        self._float8 = _FLOAT8[weight.scheme.number_format]
        self._zero = weight.scheme.implied_zero_point if not self._float8 else 0
        order = permutation(weight)
        codes = weight.codes
        if order is not None:
            codes = pack_codes(unpack_codes(codes, self._bits, inner)[:, order], self._bits)
        self._order = None if order is None else order.to(device)
        self._codes = codes.contiguous().to(device)
        scales = weight.scales.float()
        offsets: torch.Tensor | None = None
        if weight.minimums is not None:
            offsets = weight.minimums.float() + scales * self._zero
        elif weight.zero_points is not None:
            offsets = scales * (self._zero - weight.zero_points.float())
        self._scales = self._per_group(scales, columns).to(device)
        self._offsets = None if offsets is None else self._per_group(offsets, columns).to(device)
        self._bias = None if bias is None else bias.float().contiguous().to(device)
        self._activations = weight.activations
        self._is_integer = _multiplies_integers(weight)
        self._wide_output = wide_output

    @property
    def num_bytes(self) -> int:
        parts = (self._codes, self._scales, self._offsets)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        dtype = torch.float32 if self._wide_output else inputs.dtype
        output = torch.empty((inputs.shape[0], self._num_columns), dtype=dtype, device=inputs.device)
        activations, input_scales = self._activations, None
        if activations is not None and not self._is_integer:
            inputs = round_activations(inputs, activations).to(inputs.dtype)
        inputs = inputs.contiguous() if self._order is None else inputs[:, self._order]
        if activations is not None and self._is_integer:
            num_scales = inputs.shape[1] // (activations.group_size or inputs.shape[1])
            inputs, few = self._kernels.quantize_inputs(inputs, num_scales)
            input_scales = few.repeat_interleave(self._num_groups // num_scales, dim=1)
        return self._kernels.coded_matmul(
            inputs,
            self._codes,
            self._scales,
            self._offsets,
            self._bias,
            bits=self._bits,
            zero=self._zero,
            float8=self._float8,
            num_groups=self._num_groups,
            input_scales=input_scales,
            output=output,
        )

    def _per_group(self, per_weight_group: torch.Tensor, columns: int) -> torch.Tensor:
        spread = per_weight_group.expand(columns, -1)
        return spread.repeat_interleave(self._num_groups // spread.shape[1], dim=1).contiguous()


def _multiplies_integers(weight: QuantizedTensor) -> bool:
    activations = weight.activations
    return (
        activations is not None
        and activations.bits == 8
        and activations.is_symmetric
        and activations.number_format is NumberFormat.INTEGER
        and weight.scheme.number_format is NumberFormat.INTEGER
        and (activations.group_size is None or permutation(weight) is None)
    )
