"""Rotary position angles, with the stretchings that checkpoints ask for. Knows no heads and no cache.

Sources: Su et al. 2021 (RoFormer); Chen et al. 2023 (linear); Peng et al. 2023 (YaRN); Ding et al. 2024
(LongRoPE); the Llama 3.1 release.
"""

import math

import torch

from services.worker.engine.checkpoints.rope_scaling import Rope, RopeKind, RopeScaling


def rope_table(rope: Rope | None, num_positions: int) -> torch.Tensor:
    """[num_positions, R] float32: cosines of the R / 2 angles, then their sines. Without rope R is 0."""
    if rope is None:
        return torch.empty(num_positions, 0)
    frequencies, magnitude = _frequencies(rope)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).mul_(magnitude).contiguous()


def _frequencies(rope: Rope) -> tuple[torch.Tensor, float]:
    exponents = torch.arange(0, rope.rotary_size, 2, dtype=torch.int64).float() / rope.rotary_size
    frequencies = 1.0 / rope.theta**exponents
    scaling = rope.scaling
    if scaling is None:
        return frequencies, 1.0
    match scaling.kind:
        case RopeKind.LINEAR:
            return frequencies / scaling.factor, 1.0
        case RopeKind.LLAMA3:
            return _llama3(frequencies, scaling), 1.0
        case RopeKind.YARN:
            return _yarn(frequencies, scaling, rope), _yarn_magnitude(scaling)
        case RopeKind.DYNAMIC:
            return frequencies, 1.0  # it stretches beyond the original length only
        case RopeKind.LONGROPE:
            assert scaling.attention_factor is not None
            return frequencies / torch.tensor(scaling.short_factors), scaling.attention_factor


def _llama3(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long waves are stretched, short ones kept, those between blended."""
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    original = scaling.original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = torch.where(wavelengths > original / low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < original / high, frequencies, stretched)


def _yarn(frequencies: torch.Tensor, scaling: RopeScaling, rope: Rope) -> torch.Tensor:
    def dimension_of(num_rotations: float) -> float:
        length = scaling.original_max_position_embeddings / (num_rotations * 2 * math.pi)
        return rope.rotary_size * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_size - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(rope.rotary_size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _yarn_magnitude(scaling: RopeScaling) -> float:
    def magnitude(mscale: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)
