"""A linear layer for inference: weights laid out once for the machine, then only multiplied.

On CPU bfloat16 weights are packed: for our own kernel where the processor has AVX-512 (faster than oneDNN for few rows
and at least as fast for many) or AVX2 (oneDNN packs no bfloat16 there), else for oneDNN where it takes them: it reaches
the memory bandwidth where F.linear reaches half of it. Elsewhere they become float32. The plain tensor is dropped by
whoever passes it in.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from services.worker.engine.native.library import Products, load_products
from services.worker.engine.native.weight_memory import WEIGHT_MEMORY

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, columns of the weight] -> [rows, rows of the weight]."""

_LANES = 16


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, wide_output: bool = False) -> Linear:
    """`wide_output` asks for float32 products of 16-bit weights, without rounding on the way where that is free."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        products = load_products() if weight.shape[1] % 2 == 0 else None
        if products is not None and products.are_fast:
            return NativeLinear(products, weight, bias, torch.float32 if wide_output else torch.bfloat16)
        if onednn_packs_bfloat16():
            return _widened(PackedLinear(weight, bias)) if wide_output else PackedLinear(weight, bias)
        return Float32Linear(weight, bias, torch.float32 if wide_output else torch.bfloat16)
    return _widened(PlainLinear(weight, bias)) if wide_output else PlainLinear(weight, bias)


def onednn_packs_bfloat16() -> bool:
    """Of x86 processors those with AVX-512, or AVX2 that converts bfloat16."""
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _widened(linear: Linear) -> Linear:
    return lambda inputs: linear(inputs).float()


class PlainLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, self._weight, self._bias)


class PackedLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
        self._bias = bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self._multiply(inputs, self._weight, self._bias, "none", [], "")
        return product


class Float32Linear:
    """Where torch has only a loop for bfloat16: twice the memory, and some twenty times faster."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, output: torch.dtype) -> None:
        self._weight = weight.float()
        self._bias = None if bias is None else bias.float()
        self._output = output

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs.float(), self._weight, self._bias).to(self._output)


class NativeLinear:
    """Through matmul.h, which says how the weights lie."""

    def __init__(
        self, products: Products, weight: torch.Tensor, bias: torch.Tensor | None, output: torch.dtype = torch.bfloat16
    ) -> None:
        self._products = products
        self.num_columns, self.num_inner = weight.shape
        self.packed = _pack(products, weight)
        self.bias = None if bias is None else bias.contiguous()
        self._output = output

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.shape[0]
        inputs = inputs.contiguous()
        product = torch.empty((rows, self.num_columns), dtype=self._output)
        self._products.matmul(
            product.data_ptr(),
            inputs.data_ptr(),
            self.packed.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            rows,
            self.num_columns,
            self.num_inner,
            self._output is torch.float32,
        )
        return product

    def largest(self, inputs: torch.Tensor) -> torch.Tensor:
        """The column of each row's largest product, the first of equals, [rows] int64; -1 where one is not finite.

        The products are never in memory. There is no bias.
        """
        assert self.bias is None
        rows = inputs.shape[0]
        inputs = inputs.contiguous()
        columns = torch.empty(rows, dtype=torch.int64)
        scratch = torch.empty((torch.get_num_threads(), rows, 3), dtype=torch.int32)
        self._products.largest(
            columns.data_ptr(),
            scratch.data_ptr(),
            inputs.data_ptr(),
            self.packed.data_ptr(),
            rows,
            self.num_columns,
            self.num_inner,
        )
        return columns

    def weight_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """rows [n] int64 -> [n, inner] of the weight as it was: a tied embedding needs no copy of its own."""
        found = torch.empty((rows.shape[0], self.num_inner), dtype=torch.bfloat16)
        rows = rows.contiguous()
        self._products.unpack_rows(
            found.data_ptr(), self.packed.data_ptr(), rows.data_ptr(), rows.shape[0], self.num_inner
        )
        return found


def _pack(products: Products, weight: torch.Tensor) -> torch.Tensor:
    """[columns, inner] -> [columns / 16, inner / 2, 16, 2], columns rounded up with zeros."""
    columns, inner = weight.shape
    packed = WEIGHT_MEMORY.empty((-(-columns // _LANES), inner // 2, _LANES, 2), weight.dtype)
    weight = weight.contiguous()
    products.pack(packed.data_ptr(), weight.data_ptr(), columns, inner)
    return packed
