"""Round to nearest: scales from the largest magnitude or the range, codes by rounding. The base of every method.

Sources: Jacob et al. 2018, section 2.1 (affine quantization); Dettmers et al. 2022 (LLM.int8()), section 2.1 (absmax).
Float formats: Micikevicius et al. 2022 (FP8 Formats for Deep Learning), section 3.
"""

from dataclasses import replace

import torch

from services.worker.engine.quantization.packing import pack_codes
from services.worker.engine.quantization.quantization_error import EmptyTensor, NotFinite, UnsupportedScheme
from services.worker.engine.quantization.quantized_tensor import FLOAT8_DTYPES, QuantizedTensor
from services.worker.engine.quantization.scheme import Granularity, NumberFormat, QuantizationScheme

_HALF = torch.tensor(0.5)


def quantize(
    values: torch.Tensor, scheme: QuantizationScheme, *, scale_dtype: torch.dtype = torch.float32
) -> QuantizedTensor:
    """values [rows, columns], any float type. Raises QuantizationError.

    Every value comes back within half a step (its group's scale), as far as `scale_dtype` can name that scale.
    """
    check_values(values)
    scales, zero_points = choose_scales(values, scheme, scale_dtype=scale_dtype)
    return round_with(values, scheme, scales, zero_points)


def quantize_tokens(activations: torch.Tensor, bits: int = 8) -> QuantizedTensor:
    """activations [T, columns]: symmetric, one scale per token, chosen while running."""
    return quantize(activations, QuantizationScheme(bits=bits))


def check_values(values: torch.Tensor) -> None:
    if values.dim() != 2:
        raise UnsupportedScheme(f"a matrix is quantized, not a tensor of shape {tuple(values.shape)}")
    if not values.numel():
        raise EmptyTensor(tuple(values.shape))
    num_strange = int((~torch.isfinite(values)).sum())
    if num_strange:
        raise NotFinite(num_strange)


def choose_scales(
    values: torch.Tensor,
    scheme: QuantizationScheme,
    *,
    scale_dtype: torch.dtype = torch.float32,
    shrink: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales [rows or 1, groups] in `scale_dtype`, and zero points uint8 of the same shape for asymmetric schemes.

    `shrink` below 1 clips: the range that is kept, as a share of the one that is there. A group of zeros gets a scale
    that is not zero. The range always holds zero, so that zero is exact.
    """
    groups = in_groups(values.float(), scheme)
    tiny = torch.finfo(scale_dtype).tiny
    if scheme.is_symmetric:
        scales = groups.abs().amax(dim=-1) * shrink / _highest(scheme)
        return scales.clamp_(min=tiny).to(scale_dtype), None
    lowest = groups.amin(dim=-1).clamp_(max=0) * shrink
    highest = groups.amax(dim=-1).clamp_(min=0) * shrink
    # Divided before they are subtracted: the range of floats does not fit a float.
    scales = (highest / scheme.num_levels - lowest / scheme.num_levels).clamp_(min=tiny).to(scale_dtype)
    zero_points = _round_half_away(-lowest / scales.float()).clamp_(0, scheme.num_levels)
    return scales, zero_points.to(torch.uint8)


def round_with(
    values: torch.Tensor,
    scheme: QuantizationScheme,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
) -> QuantizedTensor:
    """Codes for given scales; what does not fit is clipped."""
    scaled = in_groups(values.float(), scheme) / scales.float()[..., None]
    codes = to_codes(scaled, scheme, None if zero_points is None else zero_points[..., None])
    flat = codes.reshape(values.shape)
    is_integer = scheme.number_format is NumberFormat.INTEGER
    return QuantizedTensor(
        scheme=scheme,
        shape=(values.shape[0], values.shape[1]),
        codes=pack_codes(flat, scheme.bits) if is_integer else flat,
        scales=scales,
        zero_points=zero_points,
    )


def round_trip(
    values: torch.Tensor,
    scheme: QuantizationScheme,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None,
) -> torch.Tensor:
    """What `round_with` comes back as, float32 [rows, columns], without packing: for searches."""
    steps = scales.float()[..., None]
    scaled = in_groups(values.float(), scheme) / steps
    if scheme.number_format is not NumberFormat.INTEGER:
        rounded = to_codes(scaled, scheme, None).view(FLOAT8_DTYPES[scheme.number_format]).float()
    elif zero_points is None:
        rounded = scaled.round_().clamp_(-scheme.highest, scheme.highest)
    else:
        zeros = zero_points.float()[..., None]
        rounded = _round_half_away(scaled).add_(zeros).clamp_(0, scheme.num_levels).sub_(zeros)
    return rounded.mul_(steps).reshape(values.shape)


def to_codes(scaled: torch.Tensor, scheme: QuantizationScheme, zero_points: torch.Tensor | None) -> torch.Tensor:
    """Values in units of their scale -> unsigned codes, uint8 of the same shape."""
    if scheme.number_format is not NumberFormat.INTEGER:
        limit = _highest(scheme)
        return scaled.clamp(-limit, limit).to(FLOAT8_DTYPES[scheme.number_format]).view(torch.uint8)
    if zero_points is None:
        signed = scaled.round().clamp_(-scheme.highest, scheme.highest)
        return (signed + scheme.implied_zero_point).to(torch.uint8)
    return (_round_half_away(scaled) + zero_points.float()).clamp_(0, scheme.num_levels).to(torch.uint8)


def in_groups(values: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    """[rows, columns] -> [rows or 1, groups, values that share a scale]."""
    if scheme.granularity is Granularity.TENSOR:
        return values.reshape(1, 1, -1)
    return values.reshape(values.shape[0], scheme.num_groups(values.shape[1]), -1)


def with_activations(tensor: QuantizedTensor, activations: QuantizationScheme) -> QuantizedTensor:
    """The same weight, to be multiplied with inputs that are quantized per token."""
    return replace(tensor, activations=activations)


def _highest(scheme: QuantizationScheme) -> float:
    if scheme.number_format is NumberFormat.INTEGER:
        return scheme.highest
    return torch.finfo(FLOAT8_DTYPES[scheme.number_format]).max


def _round_half_away(values: torch.Tensor) -> torch.Tensor:
    """Both ends of a range fall on a code then: what comes back spans the same range, and stays what it is."""
    return torch.copysign(_HALF, values).add_(values).trunc_()
