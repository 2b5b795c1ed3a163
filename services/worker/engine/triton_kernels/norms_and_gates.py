"""RMS norm, alone or behind the residual's addition, and gated activations: one pass over memory each.

Sources: Zhang and Sennrich 2019 (RMSNorm); Shazeer 2020 (GLU variants). Importing this imports Triton.
"""

import torch
import triton
import triton.language as tl

from services.worker.engine.triton_kernels.score_math import LOG2_E

_GATE_TILE = 1024


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """hidden [rows, size] -> the same shape; `weight` in hidden's dtype, or float32, then rounded once."""
    return _norm(hidden, None, weight, epsilon)


def add_rms_norm(residual: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Adds `update` to `residual` in place, both [rows, size], and normalises the sum."""
    return _norm(residual, update, weight, epsilon)


def _norm(residual: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    rows, size = residual.shape
    output = torch.empty_like(residual)
    _normalise_row[(rows,)](
        residual,
        residual if update is None else update,
        weight,
        output,
        epsilon,
        SIZE=size,
        SIZE_PADDED=triton.next_power_of_2(size),
        ADDS=update is not None,
        ROUNDS_BEFORE_WEIGHT=weight.dtype is residual.dtype,
    )
    return output


def gate_multiply(gate_and_up: torch.Tensor, *, is_gelu: bool) -> torch.Tensor:
    """[rows, 2 * inner] -> silu or gelu (tanh) of the first half, times the second: [rows, inner]."""
    rows, inner = gate_and_up.shape[0], gate_and_up.shape[1] // 2
    output = torch.empty((rows, inner), dtype=gate_and_up.dtype, device=gate_and_up.device)
    tile = min(_GATE_TILE, triton.next_power_of_2(inner))
    _multiply_gate[(rows, triton.cdiv(inner, tile))](gate_and_up, output, inner, TILE=tile, IS_GELU=is_gelu)
    return output


@triton.jit
def _normalise_row(
    residual,
    update,
    weight,
    output,
    epsilon,
    SIZE: tl.constexpr,
    SIZE_PADDED: tl.constexpr,
    ADDS: tl.constexpr,
    ROUNDS_BEFORE_WEIGHT: tl.constexpr,
):
    columns = tl.arange(0, SIZE_PADDED)
    is_cell = columns < SIZE
    places = tl.program_id(0).to(tl.int64) * SIZE + columns
    numbers = tl.load(residual + places, mask=is_cell, other=0.0)
    if ADDS:
        added = numbers.to(tl.float32) + tl.load(update + places, mask=is_cell, other=0.0).to(tl.float32)
        numbers = added.to(residual.dtype.element_ty)
        tl.store(residual + places, numbers, mask=is_cell)
    wide = numbers.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + epsilon)
    if ROUNDS_BEFORE_WEIGHT:
        normed = normed.to(output.dtype.element_ty).to(tl.float32)
    scaled = normed * tl.load(weight + columns, mask=is_cell, other=0.0).to(tl.float32)
    tl.store(output + places, scaled.to(output.dtype.element_ty), mask=is_cell)


@triton.jit
def _multiply_gate(gate_and_up, output, inner, TILE: tl.constexpr, IS_GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_cell = columns < inner
    gate = tl.load(gate_and_up + row * 2 * inner + columns, mask=is_cell, other=0.0).to(tl.float32)
    up = tl.load(gate_and_up + row * 2 * inner + inner + columns, mask=is_cell, other=0.0).to(tl.float32)
    if IS_GELU:
        inside = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        activated = gate / (1.0 + tl.exp2(-inside * (2.0 * LOG2_E)))  # 0.5 * (1 + tanh), without cancellation
    else:
        activated = gate / (1.0 + tl.exp2(-gate * LOG2_E))
    tl.store(output + row * inner + columns, (activated * up).to(output.dtype.element_ty), mask=is_cell)
