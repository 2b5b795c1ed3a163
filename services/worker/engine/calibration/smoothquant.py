"""SmoothQuant: outliers of activations move into the weights until both are easy to round to eight bits.

Source: Xiao et al. 2023 (SmoothQuant: Accurate and Efficient Post-Training Quantization), section 4, equation 4. The
migration strength alpha is searched for every site of every layer instead of once for the model; a site whose input
comes from a linear (v_proj, up_proj) is smoothed through that linear's rows, as one that comes from a norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.worker.engine.calibration.input_scaling import apply_scales, can_scale, shared_per_kv_head
from services.worker.engine.calibration.layer_shape import Site, SiteShape, site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer, RoundToNearest
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.quantization.rounding import choose_scales, round_trip
from services.worker.engine.quantization.scheme import QuantizationScheme, integers

_STRENGTHS = tuple(step / 10 for step in range(1, 10))
_SMALLEST = 1e-5


class SmoothQuant:
    """W8A8: weights per row, activations per token; or both per group of columns, too."""

    needs_calibration = True

    def __init__(self, scheme: LayerScheme) -> None:
        self._scheme = scheme
        self._rounding = RoundToNearest(scheme)

    def quantize_layer(
        self, config: DecoderConfig, weights: Weights, statistics: Mapping[Site, SiteStatistics]
    ) -> QuantizedLayer:
        changed: dict[str, torch.Tensor] = {}
        # Backwards: a site's producer is a linear of the site before it, and its rows must be final there.
        for site, shape in reversed(site_shapes(config).items()):
            if can_scale(shape):
                current = {**weights, **changed}
                scales = self._search(config, current, shape, statistics[site])
                changed |= apply_scales(current, shape, scales, config)
        rounded = self._rounding.quantize_layer(config, {**weights, **changed}, {})
        linears = {f"{name}.weight" for name in rounded.linears}
        return QuantizedLayer(
            linears=rounded.linears,
            changed={name: tensor for name, tensor in changed.items() if name not in linears},
        )

    def _search(self, config: DecoderConfig, weights: Weights, shape: SiteShape, seen: SiteStatistics) -> torch.Tensor:
        """The scales that change the site's output least, of those for every alpha and of none."""
        weight = torch.cat([weights[f"{name}.weight"].float() for name in shape.linears])
        inputs = seen.samples()
        expected = inputs @ weight.T
        activations = self._scheme.activations_for(weight.shape[1]) or integers(8)
        magnitudes = shared_per_kv_head(seen.abs_max, shape, config).clamp(min=_SMALLEST)
        peaks = weight.abs().amax(dim=0)
        peaks = shared_per_kv_head(peaks, shape, config).clamp(min=_SMALLEST)
        best, least = torch.ones_like(magnitudes), torch.inf
        for strength in (None, *_STRENGTHS):
            scales = smoothing_scales(magnitudes, peaks, strength)
            output = _product(inputs / scales, weight * scales, activations, self._scheme)
            error = float((output - expected).pow(2).mean())
            if error < least:
                best, least = scales, error
        return best


def smoothing_scales(magnitudes: torch.Tensor, peaks: torch.Tensor, strength: float | None) -> torch.Tensor:
    """Equation 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha). None is no smoothing."""
    if strength is None:
        return torch.ones_like(magnitudes)
    scales = magnitudes.pow(strength) / peaks.pow(1 - strength)
    return scales / scales.log().mean().exp()


def _product(
    inputs: torch.Tensor, weight: torch.Tensor, activations: QuantizationScheme, scheme: LayerScheme
) -> torch.Tensor:
    rounded_weight = _rounded(weight, scheme.for_columns(weight.shape[1]))
    return _rounded(inputs, activations) @ rounded_weight.T


def _rounded(values: torch.Tensor, scheme: QuantizationScheme) -> torch.Tensor:
    return round_trip(values, scheme, *choose_scales(values, scheme))
