"""A model's own weights in fewer bits, to draft with: fitted to what the model itself says, kept in one file.

GPTQ (Frantar et al. 2023) on the model's own text: INT4 in asymmetric groups where that costs little, INT8 where it
costs much, see docs/speculation.md. Deterministic: the same model, the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from services.worker.engine.calibration.gptq import second_order_quantize
from services.worker.engine.calibration.layer_shape import Site, site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer
from services.worker.engine.calibration.quantize_model import quantize_model
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.calibration.site_statistics import SiteStatistics
from services.worker.engine.checkpoints.model_config import DecoderConfig
from services.worker.engine.checkpoints.weights import Checkpoint
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import QuantizationScheme, integers

DraftWeights = dict[str, QuantizedTensor]
"""By Hugging Face name, the head among them; each with the scheme that inputs are rounded by for its product."""

_GROUP_SIZE = 64
_WITH_EIGHT_BITS = ("self_attn.", "mlp.down_proj")
_RECIPE = f"gptq-own-text-1 group {_GROUP_SIZE}, 8 bits: {_WITH_EIGHT_BITS}"
_SCHEMES = "schemes"
_EMBEDDING = "model.embed_tokens.weight"


class DraftMixture:
    """A method of `quantize_model`: GPTQ with the bits that each matrix needs."""

    needs_calibration = True

    def quantize_layer(
        self, config: DecoderConfig, weights: Weights, statistics: Mapping[Site, SiteStatistics]
    ) -> QuantizedLayer:
        linears = {}
        for site, shape in site_shapes(config).items():
            gram = statistics[site].gram
            for name in shape.linears:
                weight = weights[f"{name}.weight"].float()
                bits = 8 if name.startswith(_WITH_EIGHT_BITS) else 4
                scheme = _scheme(bits, weight.shape[1])
                linears[name] = second_order_quantize(weight, gram, scheme, scale_dtype=torch.bfloat16)
        return QuantizedLayer(linears=linears)


class _Collected:
    """Where `quantize_model` leaves its layers."""

    def __init__(self) -> None:
        self.weights: DraftWeights = {}
        self._latest: dict[str, torch.Tensor] = {}

    def has_layer(self, index: int) -> bool:
        return False

    def write_layer(self, index: int, layer: QuantizedLayer, weights: Weights) -> None:
        self._latest = dict(weights)
        for name, tensor in layer.linears.items():
            self.weights[f"model.layers.{index}.{name}.weight"] = tensor
            self._latest[f"{name}.weight"] = tensor.dequantize()

    def read_layer(self, index: int) -> dict[str, torch.Tensor]:
        return self._latest

    def finish(self, others: Mapping[str, torch.Tensor]) -> None:
        """What belongs to no layer stays the target's."""


def fit_draft(checkpoint: Checkpoint, token_ids: torch.Tensor) -> DraftWeights:
    """token_ids [sequences, length]. Raises CheckpointError, QuantizationError for what cannot be quantized."""
    collected = _Collected()
    dtype = torch.float32 if checkpoint.config.torch_dtype == "float32" else torch.bfloat16
    quantize_model(checkpoint, DraftMixture(), collected, token_ids, dtype=dtype)
    return collected.weights | _rounded_head(checkpoint)


def round_draft(checkpoint: Checkpoint) -> DraftWeights:
    """INT8 by rounding, for comparison: no text is needed."""
    weights = {}
    for index in range(checkpoint.config.num_layers):
        for shape in site_shapes(checkpoint.config).values():
            for linear in shape.linears:
                name = f"model.layers.{index}.{linear}.weight"
                tensor = checkpoint.tensor(name).float()
                weights[name] = quantize(tensor, _scheme(8, tensor.shape[1]), scale_dtype=torch.bfloat16)
    return weights | _rounded_head(checkpoint)


def _rounded_head(checkpoint: Checkpoint) -> DraftWeights:
    name = _EMBEDDING if checkpoint.config.tie_word_embeddings else "lm_head.weight"
    head = checkpoint.tensor(name).float()
    return {name: quantize(head, _scheme(8, head.shape[1]), scale_dtype=torch.bfloat16)}


def _scheme(bits: int, num_columns: int) -> QuantizationScheme:
    """INT8 is symmetric; INT4 has zero points."""
    wanted = LayerScheme(weights=integers(bits, group_size=_GROUP_SIZE, is_symmetric=bits == 8))
    return wanted.for_columns(num_columns)


def draft_name(fingerprint: str, text: str) -> str:
    """Names model, recipe and the text it is fitted to: 16 hexadecimal digits."""
    return hashlib.blake2b(f"{fingerprint} {_RECIPE} {text}".encode(), digest_size=8).hexdigest()


def save_draft(file: Path, weights: DraftWeights) -> None:
    """At once: another process may write the same. Raises OSError."""
    parts: dict[str, torch.Tensor] = {}
    schemes: dict[str, list[int | bool | None]] = {}
    for name, tensor in weights.items():
        parts[f"{name}.codes"] = tensor.codes.contiguous()
        parts[f"{name}.scales"] = tensor.scales.contiguous()
        if tensor.zero_points is not None:
            parts[f"{name}.zero_points"] = tensor.zero_points.contiguous()
        scheme = tensor.scheme
        schemes[name] = [scheme.bits, scheme.group_size, scheme.is_symmetric, *tensor.shape]
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    # One entry: several would be written in any order.
    save_file(parts, unfinished, metadata={_SCHEMES: json.dumps(schemes)})
    unfinished.replace(file)


def load_draft(file: Path) -> DraftWeights | None:
    """None where there is no such file, or none that can be read: then it is made again."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            schemes = json.loads(stored.metadata()[_SCHEMES])
        parts = load_file(file)
        return {name: _tensor(parts, name, scheme) for name, scheme in schemes.items()}
    except SafetensorError:
        return None


def _tensor(parts: Mapping[str, torch.Tensor], name: str, described: list[Any]) -> QuantizedTensor:
    bits, group_size, is_symmetric, rows, columns = described
    return QuantizedTensor(
        scheme=integers(bits, group_size=group_size, is_symmetric=is_symmetric),
        shape=(rows, columns),
        codes=parts[f"{name}.codes"],
        scales=parts[f"{name}.scales"],
        zero_points=None if is_symmetric else parts[f"{name}.zero_points"],
    )
