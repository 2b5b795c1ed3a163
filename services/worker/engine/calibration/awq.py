"""AWQ: channels of the weight that meet large activations are scaled up, so that rounding hurts them less.

Source: Lin et al. 2024 (AWQ: Activation-aware Weight Quantization), section 3.2, equations 4 and 5: s = mean|X|^alpha,
alpha on a grid, the loss the error of the site's output; then ranges are clipped against the same loss. The loss is
computed from second moments, which is the same number as over the text itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from services.worker.engine.calibration.clipping import quantize_clipped
from services.worker.engine.calibration.input_scaling import apply_scales, can_scale, shared_per_kv_head
from services.worker.engine.calibration.layer_shape import Site, SiteShape, site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics, output_error
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.quantization.rounding import choose_scales, round_trip

_NUM_STRENGTHS = 10
_SMALLEST = 1e-4


class ActivationAware:
    needs_calibration = True

    def __init__(self, scheme: LayerScheme) -> None:
        self._scheme = scheme

    def quantize_layer(
        self, config: DecoderConfig, weights: Weights, statistics: Mapping[Site, SiteStatistics]
    ) -> QuantizedLayer:
        shapes = site_shapes(config)
        changed: dict[str, torch.Tensor] = {}
        scales_of: dict[Site, torch.Tensor] = {}
        # Backwards: a site's producer is a linear of the site before it, and its rows must be final there.
        for site, shape in reversed(shapes.items()):
            if can_scale(shape):
                current = {**weights, **changed}
                scales_of[site] = self._search(config, current, shape, statistics[site])
                changed |= apply_scales(current, shape, scales_of[site], config)
        linears = {}
        for site, shape in shapes.items():
            scales = scales_of.get(site)
            gram = statistics[site].gram
            scaled_gram = gram if scales is None else gram / scales[:, None] / scales
            for name in shape.linears:
                weight = {**weights, **changed}[f"{name}.weight"].float()
                scheme = self._scheme.for_columns(weight.shape[1])
                tensor = quantize_clipped(weight, scheme, scaled_gram, scale_dtype=self._scheme.scale_dtype)
                linears[name] = self._scheme.finish(tensor)
        plain = {name: tensor for name, tensor in changed.items() if name.removesuffix(".weight") not in linears}
        return QuantizedLayer(linears=linears, changed=plain)

    def _search(self, config: DecoderConfig, weights: Weights, shape: SiteShape, seen: SiteStatistics) -> torch.Tensor:
        """The scales [columns] of the alpha whose rounding changes the site's output least; alpha 0 is no scaling."""
        magnitudes = shared_per_kv_head(seen.abs_mean, shape, config)
        gram = seen.gram
        originals = [weights[f"{name}.weight"].float() for name in shape.linears]
        best, least = torch.ones_like(magnitudes), torch.inf
        for step in range(_NUM_STRENGTHS):
            scales = magnitudes.pow(step / _NUM_STRENGTHS).clamp(min=_SMALLEST)
            scales = scales / (scales.max() * scales.min()).sqrt()
            error = 0.0
            for weight in originals:
                scheme = self._scheme.for_columns(weight.shape[1])
                scaled = weight * scales
                steps, zero_points = choose_scales(scaled, scheme, scale_dtype=self._scheme.scale_dtype)
                rounded = round_trip(scaled, scheme, steps, zero_points)
                error += output_error(rounded.div_(scales).sub_(weight), gram)
            if error < least:
                best, least = scales, error
        return best
