"""The decoder's small operators through our Triton kernels: each is one launch and one pass over memory.

Importing this imports no Triton; making `TritonOperators` does.
"""

import torch

from services.worker.engine.attention.step_layout import StepLayout


class TritonOperators:
    name = "triton"

    def __init__(self) -> None:
        from services.worker.engine.triton_kernels import norms_and_gates
        from services.worker.engine.triton_kernels.rotate_and_store import rotate_and_store

        self._kernels = norms_and_gates
        self._rotate_and_store = rotate_and_store

    def rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return self._kernels.rms_norm(hidden, weight, epsilon)

    def add_rms_norm(
        self, residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        return self._kernels.add_rms_norm(residual, update, weight, epsilon)

    def rotate_and_store(
        self,
        projected: torch.Tensor,
        table: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        num_query_heads: int,
    ) -> torch.Tensor:
        return self._rotate_and_store(projected, table, keys, values, layout.positions, layout.slots, num_query_heads)

    def silu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        return self._kernels.gate_multiply(gate_and_up, is_gelu=False)

    def gelu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        return self._kernels.gate_multiply(gate_and_up, is_gelu=True)
