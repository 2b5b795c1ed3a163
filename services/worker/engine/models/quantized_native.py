"""Quantized linear layers on CPU through our C kernels, which say how weights lie and in what order they add.

A row's result does not depend on the rows beside it: there is one order of sums for every number of rows.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from services.worker.engine.models.kernel_layout import (
    KernelWeights,
    common_group_size,
    integer_weights,
    permutation,
    table_weights,
)
from services.worker.engine.models.quantized_reference import round_activations
from services.worker.engine.native.quantized_library import COLUMN_STEP, QuantizedKernels
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import NumberFormat

NEVER = 1 << 60


class IntegerLinear:
    """Weights of 2, 4 or 8 bits, activations of 8: integer products. Inputs float32 or bfloat16."""

    name = "integer"

    def __init__(
        self, kernels: QuantizedKernels, weight: QuantizedTensor, bias: torch.Tensor | None, *, wide_output: bool
    ) -> None:
        group_size = common_group_size(weight)
        assert group_size is not None, "callers ask `can_multiply_integers`"
        self._kernels = kernels
        self._weights = integer_weights(weight, group_size)
        self._order = permutation(weight)
        self._bias = _padded_bias(bias)
        self._wide_output = wide_output
        assert weight.activations is not None
        self._scale_groups = (weight.activations.group_size or weight.shape[1]) // group_size

    @property
    def num_bytes(self) -> int:
        return self._weights.num_bytes

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        weights, rows = self._weights, inputs.shape[0]
        inputs = _in_order(inputs, self._order)
        codes = torch.empty((rows, weights.num_padded), dtype=torch.int8)
        scales = torch.empty((rows, weights.num_groups))
        sums = torch.empty((rows, weights.num_groups), dtype=torch.int32)
        is_wide = inputs.dtype is torch.float32
        quantize_rows = self._kernels.quantize_rows_f32 if is_wide else self._kernels.quantize_rows_bf16
        quantize_rows(
            codes.data_ptr(),
            scales.data_ptr(),
            sums.data_ptr(),
            inputs.data_ptr(),
            rows,
            weights.num_inner,
            weights.num_padded,
            weights.num_groups,
            self._scale_groups,
        )
        product = _empty_product(inputs, weights, self._wide_output)
        self._kernels.integer_matmul(
            product.data_ptr(),
            codes.data_ptr(),
            scales.data_ptr(),
            sums.data_ptr(),
            weights.packed.data_ptr(),
            weights.scales.data_ptr(),
            _pointer(weights.offsets),
            _pointer(self._bias),
            rows,
            weights.num_columns,
            weights.num_padded,
            weights.num_groups,
            weights.zero,
            weights.bits,
            weights.is_half,
            product.dtype is torch.float32,
        )
        return product


class TableLinear:
    """Weights of 2, 4 or 8 bits, integers or floats; activations in bfloat16, rounded to fewer bits where asked.

    `expand_from_rows`: from this many rows on a strip of weights is looked up once for all of them. It changes the
    speed, no bit of the result.
    """

    name = "table"

    def __init__(
        self,
        kernels: QuantizedKernels,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
        *,
        wide_output: bool,
        expand_from_rows: int = NEVER,
    ) -> None:
        group_size = common_group_size(weight)
        assert group_size is not None, "callers ask `can_look_up`"
        self._kernels = kernels
        self._weights = table_weights(weight, group_size)
        self._order = permutation(weight)
        self._bias = _padded_bias(bias)
        self._wide_output = wide_output
        self._activations = weight.activations
        self.expand_from_rows = expand_from_rows

    @property
    def num_bytes(self) -> int:
        return self._weights.num_bytes

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        weights, rows = self._weights, inputs.shape[0]
        if self._activations is not None:
            inputs = round_activations(inputs, self._activations).to(inputs.dtype)
        inputs = _in_order(inputs, self._order)
        if weights.num_padded != weights.num_inner:
            inputs = functional.pad(inputs, (0, weights.num_padded - weights.num_inner))
        sums: torch.Tensor | None = None
        if weights.offsets is not None:
            sums = torch.empty((rows, weights.num_groups))
            self._kernels.group_sums(sums.data_ptr(), inputs.data_ptr(), rows, weights.num_padded, weights.num_groups)
        product = _empty_product(inputs, weights, self._wide_output)
        is_done = self._kernels.table_matmul(
            product.data_ptr(),
            inputs.data_ptr(),
            _pointer(sums),
            weights.packed.data_ptr(),
            _pointer(weights.table),
            weights.scales.data_ptr(),
            _pointer(weights.offsets),
            _pointer(self._bias),
            rows,
            weights.num_columns,
            weights.num_padded,
            weights.num_groups,
            weights.bits,
            weights.is_half,
            product.dtype is torch.float32,
            rows >= self.expand_from_rows,
        )
        if not is_done:
            raise MemoryError(f"no memory for {weights.num_padded} x {weights.num_columns} weights, 16 at a time")
        return product


def can_multiply_integers(weight: QuantizedTensor, dtype: torch.dtype) -> bool:
    activations = weight.activations
    return (
        activations is not None
        and activations.bits == 8
        and activations.number_format is NumberFormat.INTEGER
        and activations.is_symmetric
        and weight.scheme.number_format is NumberFormat.INTEGER
        and dtype in (torch.float32, torch.bfloat16)
        and common_group_size(weight) is not None
        and (activations.group_size is None or permutation(weight) is None)
    )


def can_look_up(weight: QuantizedTensor, dtype: torch.dtype) -> bool:
    return dtype is torch.bfloat16 and common_group_size(weight) is not None


def _in_order(inputs: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return inputs.contiguous() if order is None else inputs[:, order]


def _empty_product(inputs: torch.Tensor, weights: KernelWeights, wide_output: bool) -> torch.Tensor:
    dtype = torch.float32 if wide_output else inputs.dtype
    return torch.empty((inputs.shape[0], weights.num_columns), dtype=dtype)


def _padded_bias(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else functional.pad(bias.float(), (0, -len(bias) % COLUMN_STEP)).contiguous()


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
