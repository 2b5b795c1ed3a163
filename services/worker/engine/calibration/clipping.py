"""Scales that clip: a smaller range rounds the many values finer and a few of them away.

Sources: Lin et al. 2024 (AWQ), section 5.1 and its released code (weight clipping against the output error).
"""

from __future__ import annotations

import torch

from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import check_values, choose_scales, in_groups, round_trip, round_with
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

_SMALLEST_RANGE = 0.6
_NUM_STEPS = 8


def clipped_scales(
    weight: torch.Tensor, scheme: QuantizationScheme, gram: torch.Tensor, *, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The scales of `choose_scales`, each shrunk to what changes the output of its own group of columns least.

    weight [rows, columns], gram [columns, columns]. Float formats and scales of a whole tensor are not clipped.
    """
    check_values(weight)
    best, zero_points = choose_scales(weight, scheme, scale_dtype=scale_dtype)
    if scheme.number_format is not NumberFormat.INTEGER or scheme.granularity is Granularity.TENSOR:
        return best, zero_points
    diagonal_blocks = _diagonal_blocks(gram, best.shape[1])
    least = _group_errors(weight, scheme, best, zero_points, diagonal_blocks)
    for step in range(1, _NUM_STEPS + 1):
        shrink = 1 - step * (1 - _SMALLEST_RANGE) / _NUM_STEPS
        scales, zeros = choose_scales(weight, scheme, scale_dtype=scale_dtype, shrink=shrink)
        errors = _group_errors(weight, scheme, scales, zeros, diagonal_blocks)
        is_better = errors < least
        least = torch.where(is_better, errors, least)
        best = torch.where(is_better, scales, best)
        if zero_points is not None and zeros is not None:
            zero_points = torch.where(is_better, zeros, zero_points)
    return best, zero_points


def quantize_clipped(
    weight: torch.Tensor, scheme: QuantizationScheme, gram: torch.Tensor, *, scale_dtype: torch.dtype
) -> QuantizedTensor:
    scales, zero_points = clipped_scales(weight, scheme, gram, scale_dtype=scale_dtype)
    return round_with(weight, scheme, scales, zero_points)


def _diagonal_blocks(gram: torch.Tensor, num_groups: int) -> torch.Tensor:
    """[groups, size, size]: what columns of one group have to do with each other."""
    size = gram.shape[0] // num_groups
    return gram.reshape(num_groups, size, num_groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _group_errors(
    weight: torch.Tensor,
    scheme: QuantizationScheme,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
    blocks: torch.Tensor,
) -> torch.Tensor:
    """[rows, groups]: the output error that each group of columns makes by itself."""
    change = round_trip(weight, scheme, scales, zero_points).sub_(weight)
    groups = in_groups(change, scheme).transpose(0, 1)  # [groups, rows, size]
    return (torch.bmm(groups, blocks) * groups).sum(dim=-1).T
