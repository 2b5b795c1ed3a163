"""Quantizes a checkpoint layer by layer: what one layer gives is what the next is calibrated with.

Memory holds one layer, its second moments and the text's hidden states; each layer is written before the next is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from services.worker.engine.calibration.layer_shape import Site, site_shapes
from services.worker.engine.calibration.method import QuantizationMethod, QuantizedLayer
from services.worker.engine.calibration.reference_layer import ReferenceLayer, Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes
from services.worker.engine.checkpoints.weights import Checkpoint


class WrittenLayers(Protocol):
    """Where layers go as they are made, and come from for the next: a directory, or memory."""

    def has_layer(self, index: int) -> bool: ...

    def write_layer(self, index: int, layer: QuantizedLayer, weights: Weights) -> None: ...

    def read_layer(self, index: int) -> Weights:
        """Dequantized, float32: what was written last, or before."""

    def finish(self, others: Mapping[str, torch.Tensor]) -> None: ...


Progress = Callable[[int, int], None]
"""Called with layers done and layers in all, first with (0, all)."""

_SEQUENCES_AT_ONCE = 8
_EMBEDDING = "model.embed_tokens.weight"


def check_can_quantize(checkpoint: Checkpoint, source: Path) -> None:
    """Raises CheckpointError for what these methods do not do."""
    if checkpoint.config.experts is not None:
        raise CheckpointError(source, "mixtures of experts cannot be quantized here")
    names = (name for name in checkpoint.tensor_names() if name.startswith("model.layers."))
    if any(checkpoint.quantized(name) is not None for name in names):
        raise CheckpointError(source, "is quantized already: begin with the checkpoint it was made from")


@torch.inference_mode()
def quantize_model(
    checkpoint: Checkpoint,
    method: QuantizationMethod,
    written: WrittenLayers,
    token_ids: torch.Tensor,
    *,
    progress: Progress | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """token_ids [sequences, length] is the calibration text; `dtype` is that of its matrix products.

    Raises QuantizationError for weights that cannot be quantized.
    """
    config = checkpoint.config
    hidden = _embed(checkpoint, token_ids) if method.needs_calibration else None
    for index, layer_config in enumerate(config.layers):
        if progress is not None:
            progress(index, config.num_layers)
        if not written.has_layer(index):
            weights = _read_layer(checkpoint, index)
            statistics: dict[Site, SiteStatistics] = {}
            if hidden is not None:
                layer = ReferenceLayer(config, layer_config, weights, dtype=dtype)
                statistics = _observe(layer, hidden, config)
            written.write_layer(index, method.quantize_layer(config, weights, statistics), weights)
        if hidden is not None and index + 1 < config.num_layers:
            layer = ReferenceLayer(config, layer_config, written.read_layer(index), dtype=dtype)
            for part in torch.split(hidden, _SEQUENCES_AT_ONCE):
                part.copy_(layer.forward(part))
    others = {
        name: checkpoint.tensor(name) for name in checkpoint.tensor_names() if not name.startswith("model.layers.")
    }
    written.finish(others)
    if progress is not None:
        progress(config.num_layers, config.num_layers)


def _embed(checkpoint: Checkpoint, token_ids: torch.Tensor) -> torch.Tensor:
    """[sequences, length, hidden] float32."""
    table = checkpoint.tensor(_EMBEDDING)
    scale = torch.tensor(checkpoint.config.embedding_scale).to(table.dtype).float()
    return table[token_ids].float() * scale


def _read_layer(checkpoint: Checkpoint, index: int) -> Weights:
    prefix = f"model.layers.{index}."
    names = (name for name in expected_shapes(checkpoint.config) if name.startswith(prefix))
    return {name.removeprefix(prefix): checkpoint.tensor(name).float() for name in names}


def _observe(layer: ReferenceLayer, hidden: torch.Tensor, config: DecoderConfig) -> dict[Site, SiteStatistics]:
    statistics: dict[Site, SiteStatistics] = {}

    def add(site: Site, inputs: torch.Tensor) -> None:
        if site not in statistics:
            statistics[site] = SiteStatistics(inputs.shape[1])
        statistics[site].add(inputs)

    assert set(site_shapes(config)) == set(Site)
    for part in torch.split(hidden, _SEQUENCES_AT_ONCE):
        layer.forward(part, add)
    return statistics
