"""A way to quantize one decoder layer, given what calibration saw at its sites: the protocol and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from services.worker.engine.calibration.layer_shape import Site, site_shapes
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize, with_activations
from services.worker.engine.quantization.scheme import QuantizationScheme

_SMALLEST_GROUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScheme:
    """How the linears of every layer are quantized.

    `weights` may ask for a group size that does not divide a width: `for_columns` says what that width gets.
    """

    weights: QuantizationScheme
    activations: QuantizationScheme | None = None
    scale_dtype: torch.dtype = torch.bfloat16

    def for_columns(self, num_columns: int) -> QuantizationScheme:
        """The largest group not above the wanted one that divides the columns, 16 at least. Raises QuantizationError.

        SmolLM2's 576 columns hold no whole number of groups of 128, but six of 96.
        """
        wanted = self.weights.group_size
        if wanted is None or num_columns % wanted == 0:
            return self.weights
        for group_size in range(min(wanted, num_columns), _SMALLEST_GROUP - 1, -1):
            if num_columns % group_size == 0 and group_size % _SMALLEST_GROUP == 0:
                return replace(self.weights, group_size=group_size)
        self.weights.num_groups(num_columns)  # raises: nothing divides
        return self.weights

    def activations_for(self, num_columns: int) -> QuantizationScheme | None:
        """Groups of inputs are those of the weights. Raises QuantizationError."""
        if self.activations is None or self.activations.group_size is None:
            return self.activations
        return replace(self.activations, group_size=self.for_columns(num_columns).group_size)

    def finish(self, tensor: QuantizedTensor) -> QuantizedTensor:
        activations = self.activations_for(tensor.shape[1])
        return tensor if activations is None else with_activations(tensor, activations)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLayer:
    """`linears` by name without `.weight`; `changed` are plain tensors that differ from the checkpoint's, float32."""

    linears: Mapping[str, QuantizedTensor]
    changed: Mapping[str, torch.Tensor] = field(default_factory=dict)


class QuantizationMethod(Protocol):
    """Called for one layer after another, from one thread. Deterministic."""

    needs_calibration: bool

    def quantize_layer(
        self,
        config: DecoderConfig,
        weights: Weights,
        statistics: Mapping[Site, SiteStatistics],
    ) -> QuantizedLayer:
        """`statistics` is empty for methods that need no calibration. Raises QuantizationError."""


class RoundToNearest:
    """No calibration: each weight goes to the nearest code. FP8 weights are made this way, too."""

    needs_calibration = False

    def __init__(self, scheme: LayerScheme) -> None:
        self._scheme = scheme

    def quantize_layer(
        self, config: DecoderConfig, weights: Weights, statistics: Mapping[Site, SiteStatistics]
    ) -> QuantizedLayer:
        linears = {}
        for shape in site_shapes(config).values():
            for name in shape.linears:
                weight = weights[f"{name}.weight"].float()
                scheme = self._scheme.for_columns(weight.shape[1])
                tensor = quantize(weight, scheme, scale_dtype=self._scheme.scale_dtype)
                linears[name] = self._scheme.finish(tensor)
        return QuantizedLayer(linears=linears)
