"""The small operators between a decoder's matrix products, behind one protocol: torch's own, or fused native ones."""

from typing import Protocol

import torch
from torch.nn import functional

from services.worker.engine.attention.step_layout import StepLayout


class DecoderOperators(Protocol):
    """Called by the decoder, from the engine's thread. All tensors contiguous, on the model's device."""

    name: str

    def rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """hidden [rows, size] -> the same shape, normalised per row.

        `weight` is in hidden's dtype, or float32: then the product is rounded once, at the end (Gemma).
        """

    def add_rms_norm(
        self, residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Adds `update` to `residual` in place, then normalises it: both [T, size]."""

    def rotate_and_store(
        self,
        projected: torch.Tensor,
        table: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        num_query_heads: int,
    ) -> torch.Tensor:
        """projected [T, (H + 2K) * D]: query, key, value -> rotated queries [T, H, D].

        Rotated keys and the values go into their slots of the layer's cache, [N, P, K, D] each. `table` is
        `rope_table`'s, [positions, R]: the first R dimensions of a head turn.
        """

    def silu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        """[T, 2 * inner] -> silu(first half) * second half, [T, inner]."""

    def gelu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        """The same with gelu's tanh approximation."""


class TorchOperators:
    """Works everywhere; also what the native operators are tested against."""

    name = "torch"

    def rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        if weight.dtype is hidden.dtype:
            return normed.to(hidden.dtype) * weight
        return (normed * weight).to(hidden.dtype)

    def add_rms_norm(
        self, residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        residual.add_(update)
        return self.rms_norm(residual, weight, epsilon)

    def rotate_and_store(
        self,
        projected: torch.Tensor,
        table: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: StepLayout,
        num_query_heads: int,
    ) -> torch.Tensor:
        num_kv_heads, head_size = keys.shape[2], keys.shape[3]
        heads = projected.view(projected.shape[0], -1, head_size)  # [T, H + 2K, D]
        num_rotated = num_query_heads + num_kv_heads
        cosines, sines = table[layout.positions].to(projected.dtype)[:, None].chunk(2, dim=-1)  # [T, 1, R / 2]
        turning, rotary_size = heads[:, :num_rotated], table.shape[1]
        first, second = turning[..., :rotary_size].chunk(2, dim=-1)
        passing = turning[..., rotary_size:]
        rotated = torch.cat([first * cosines - second * sines, second * cosines + first * sines, passing], dim=-1)
        keys.view(-1, num_kv_heads, head_size)[layout.slots] = rotated[:, num_query_heads:]
        values.view(-1, num_kv_heads, head_size)[layout.slots] = heads[:, num_rotated:]
        return rotated[:, :num_query_heads].contiguous()

    def silu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def gelu_multiply(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_and_up.chunk(2, dim=-1)
        return functional.gelu(gate, approximate="tanh").mul_(up)
