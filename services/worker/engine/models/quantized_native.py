"""Quantized linear layers on CPU through our C kernels, which say how weights lie and in what order they add.

A row's result does not depend on the rows beside it: there is one order of sums for every number of rows.
"""

from __future__ import annotations

import ctypes

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
from services.worker.engine.native.coded_structures import CodedInputsStructure, CodedStructure
from services.worker.engine.native.quantized_library import COLUMN_STEP, QuantizedKernels
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.scheme import NumberFormat

NEVER = 1 << 60


class CodedLinear:
    """What both kinds share: a matrix as the kernels read it, and rows made ready for it."""

    name: str

    def __init__(
        self,
        kernels: QuantizedKernels,
        weights: KernelWeights,
        bias: torch.Tensor | None,
        *,
        order: torch.Tensor | None,
        scale_groups: int = 1,
        wide_output: bool,
    ) -> None:
        self.weights = weights
        self._kernels = kernels
        self._order = order
        self._bias = _padded_bias(bias)
        self._wide_output = wide_output
        self.structure = CodedStructure(
            packed=weights.packed.data_ptr(),
            table=_pointer(weights.table),
            scales=weights.scales.data_ptr(),
            offsets=_pointer(weights.offsets),
            bias=_pointer(self._bias),
            order=_pointer(order),
            columns=weights.num_columns,
            inner=weights.num_inner,
            padded=weights.num_padded,
            groups=weights.num_groups,
            scale_groups=scale_groups,
            zero=weights.zero,
            bits=weights.bits,
            is_half=weights.is_half,
            expand_from_rows=NEVER,
        )

    @property
    def num_bytes(self) -> int:
        return self.weights.num_bytes

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = self._prepared(inputs)
        dtype = torch.float32 if self._wide_output else inputs.dtype
        product = torch.empty((inputs.shape[0], self.weights.num_columns), dtype=dtype)
        self._kernels.matmul(
            product.data_ptr(),
            ctypes.addressof(self.structure),
            ctypes.addressof(rows.structure),
            inputs.shape[0],
            dtype is torch.float32,
        )
        return product

    def largest(self, inputs: torch.Tensor) -> torch.Tensor:
        """As `NativeLinear.largest`."""
        assert self._bias is None
        rows, prepared = inputs.shape[0], self._prepared(inputs)
        columns = torch.empty(rows, dtype=torch.int64)
        scratch = torch.empty((torch.get_num_threads(), rows, 3), dtype=torch.int32)
        self._kernels.largest(
            columns.data_ptr(),
            scratch.data_ptr(),
            ctypes.addressof(self.structure),
            ctypes.addressof(prepared.structure),
            rows,
        )
        return columns

    def _prepared(self, inputs: torch.Tensor) -> CodedRows:
        rows = CodedRows(self.weights.num_padded, self.weights.num_groups, inputs.shape[0])
        inputs = inputs.contiguous()
        self._kernels.prepare_rows(
            ctypes.addressof(rows.structure), ctypes.addressof(self.structure), inputs.data_ptr(), inputs.shape[0]
        )
        return rows


class CodedRows:
    """Room for rows of any coded matrix of at most so many inner values and groups; see quantized_products.h."""

    def __init__(self, num_padded: int, num_groups: int, num_rows: int) -> None:
        self.codes = torch.empty((num_rows, num_padded), dtype=torch.int8)
        self.scales = torch.empty((num_rows, num_groups))
        self.sums = torch.empty((num_rows, num_groups), dtype=torch.int32)
        self._halves = torch.empty((num_rows, num_padded), dtype=torch.bfloat16)
        self._half_sums = torch.empty((num_rows, num_groups))
        self.structure = CodedInputsStructure(
            codes=self.codes.data_ptr(),
            scales=self.scales.data_ptr(),
            sums=self.sums.data_ptr(),
            halves=self._halves.data_ptr(),
            half_sums=self._half_sums.data_ptr(),
        )


class IntegerLinear(CodedLinear):
    """Weights of 2, 4 or 8 bits, activations of 8: integer products. Inputs float32 or bfloat16."""

    name = "integer"

    def __init__(
        self, kernels: QuantizedKernels, weight: QuantizedTensor, bias: torch.Tensor | None, *, wide_output: bool
    ) -> None:
        group_size = common_group_size(weight)
        assert group_size is not None, "callers ask `can_multiply_integers`"
        assert weight.activations is not None
        super().__init__(
            kernels,
            integer_weights(weight, group_size),
            bias,
            order=permutation(weight),
            scale_groups=(weight.activations.group_size or weight.shape[1]) // group_size,
            wide_output=wide_output,
        )

    def _prepared(self, inputs: torch.Tensor) -> CodedRows:
        if inputs.dtype is torch.bfloat16:
            return super()._prepared(inputs)
        weights = self.weights
        rows = CodedRows(weights.num_padded, weights.num_groups, inputs.shape[0])
        inputs = inputs.contiguous() if self._order is None else inputs[:, self._order]
        self._kernels.quantize_rows_f32(
            rows.codes.data_ptr(),
            rows.scales.data_ptr(),
            rows.sums.data_ptr(),
            inputs.data_ptr(),
            inputs.shape[0],
            weights.num_inner,
            weights.num_padded,
            weights.num_groups,
            self.structure.scale_groups,
        )
        return rows


class TableLinear(CodedLinear):
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
        super().__init__(
            kernels,
            table_weights(weight, group_size),
            bias,
            order=permutation(weight),
            wide_output=wide_output,
        )
        self.rounds_inputs = weight.activations
        self.expand_from_rows = expand_from_rows

    @property
    def expand_from_rows(self) -> int:
        return int(self.structure.expand_from_rows)

    @expand_from_rows.setter
    def expand_from_rows(self, num_rows: int) -> None:
        self.structure.expand_from_rows = num_rows

    def _prepared(self, inputs: torch.Tensor) -> CodedRows:
        if self.rounds_inputs is not None:
            inputs = round_activations(inputs, self.rounds_inputs).to(inputs.dtype)
        return super()._prepared(inputs)


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


def _padded_bias(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else functional.pad(bias.float(), (0, -len(bias) % COLUMN_STEP)).contiguous()


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
