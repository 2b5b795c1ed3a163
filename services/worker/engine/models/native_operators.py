"""The decoder's small operators through our C kernels: each is one pass over memory instead of five."""

import torch

from services.worker.engine.attention.step_layout import StepLayout
from services.worker.engine.native.library import Kernels


class NativeOperators:
    name = "native"

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return self._norm(hidden, None, weight, epsilon)

    def add_rms_norm(
        self, residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
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
        )
        return queries

    def silu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        rows, inner = gate_and_up.shape[0], gate_and_up.shape[1] // 2
        output = torch.empty((rows, inner), dtype=gate_and_up.dtype)
        self._kernels.silu_multiply(output.data_ptr(), gate_and_up.data_ptr(), rows, inner)
        return output
