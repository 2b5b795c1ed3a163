"""The decoder's small operators through our C kernels: each is one pass over memory instead of five.

Norm weights in float32 beside bfloat16 activations (Gemma) have no kernel: torch's operators do those.
"""

from typing import Any

import torch

from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.models.decoder_operators import TorchOperators
from services.worker.engine.native.library import Kernels


class NativeOperators:
    name = "native"

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._torch = TorchOperators()

    def rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        if weight.dtype is not hidden.dtype:
            return self._torch.rms_norm(hidden, weight, epsilon)
        return self._norm(hidden, None, weight, epsilon)

    def add_rms_norm(
        self, residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        if weight.dtype is not residual.dtype:
            return self._torch.add_rms_norm(residual, update, weight, epsilon)
        return self._norm(residual, update.data_ptr(), weight, epsilon)

    def _norm(self, residual: torch.Tensor, update: int | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        output = torch.empty_like(residual)
        rows, size = residual.shape
        self._kernels.add_rms_norm(
            output.data_ptr(), residual.data_ptr(), update, weight.data_ptr(), rows, size, epsilon
        )
        return output

    def rotate_and_store(
        self,
        projected: torch.Tensor,
        table: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        num_query_heads: int,
    ) -> torch.Tensor:
        num_tokens = projected.shape[0]
        _, _, num_kv_heads, head_size = keys.shape
        queries = torch.empty((num_tokens, num_query_heads, head_size), dtype=projected.dtype)
        self._kernels.rotate_and_store(
            queries.data_ptr(),
            projected.data_ptr(),
            table.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            layout.positions.data_ptr(),
            layout.slots.data_ptr(),
            num_tokens,
            num_query_heads,
            num_kv_heads,
            head_size,
            table.shape[1],
        )
        return queries

    def silu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        return _gate(self._kernels.silu_multiply, gate_and_up)

    def gelu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        return _gate(self._kernels.gelu_multiply, gate_and_up)


def _gate(kernel: Any, gate_and_up: torch.Tensor) -> torch.Tensor:
    rows, inner = gate_and_up.shape[0], gate_and_up.shape[1] // 2
    output = torch.empty((rows, inner), dtype=gate_and_up.dtype)
    kernel(output.data_ptr(), gate_and_up.data_ptr(), rows, inner)
    return output
