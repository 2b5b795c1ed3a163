"""A model's own weights in fewer bits, to draft with: fitted to what the model itself says, kept in one file.

GPTQ (Frantar et al. 2023) on the model's own text, six bits everywhere, see docs/speculation.md. Deterministic: the
same model, the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from services.worker.engine.calibration.gptq import SecondOrder
from services.worker.engine.calibration.layer_shape import site_shapes
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer
from services.worker.engine.calibration.quantize_model import quantize_model
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.checkpoints.weights import Checkpoint
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor
from services.worker.engine.quantization.rounding import quantize
from services.worker.engine.quantization.scheme import integers

DraftWeights = dict[str, QuantizedTensor]
"""By Hugging Face name, the head among them; each with the scheme that inputs are rounded by for its product."""

_SIX_BITS = LayerScheme(weights=integers(8, group_size=32, used_bits=6))
_EIGHT_BITS = LayerScheme(weights=integers(8, group_size=32))
_RECIPE = "gptq-own-text-2, 6 bits in groups of 32"
_CODES, _SCALES = ".codes", ".scales"
_EMBEDDING = "model.embed_tokens.weight"


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
    quantize_model(checkpoint, SecondOrder(_SIX_BITS), collected, token_ids, dtype=dtype)
    return collected.weights | _rounded_head(checkpoint, _SIX_BITS)


def round_draft(checkpoint: Checkpoint) -> DraftWeights:
    """INT8 by rounding, for comparison: no text is needed."""
    weights = {}
    for index in range(checkpoint.config.num_layers):
        for shape in site_shapes(checkpoint.config).values():
            for linear in shape.linears:
                name = f"model.layers.{index}.{linear}.weight"
                weights[name] = _rounded(checkpoint.tensor(name), _EIGHT_BITS)
    return weights | _rounded_head(checkpoint, _EIGHT_BITS)


def _rounded_head(checkpoint: Checkpoint, scheme: LayerScheme) -> DraftWeights:
    name = _EMBEDDING if checkpoint.config.tie_word_embeddings else "lm_head.weight"
    return {name: _rounded(checkpoint.tensor(name), scheme)}


def _rounded(weight: torch.Tensor, scheme: LayerScheme) -> QuantizedTensor:
    return quantize(weight.float(), scheme.for_columns(weight.shape[1]), scale_dtype=scheme.scale_dtype)


def draft_name(fingerprint: str, text: str) -> str:
    """Names model, recipe and the text it is fitted to: 16 hexadecimal digits."""
    return hashlib.blake2b(f"{fingerprint} {_RECIPE} {text}".encode(), digest_size=8).hexdigest()


def save_draft(file: Path, weights: DraftWeights) -> None:
    """Of `fit_draft`. At once: another process may write the same. Raises OSError."""
    parts: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        parts[f"{name}{_CODES}"] = tensor.codes.contiguous()
        parts[f"{name}{_SCALES}"] = tensor.scales.contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file(parts, unfinished)
    unfinished.replace(file)


def load_draft(file: Path) -> DraftWeights | None:
    """None where there is no such file, or none that can be read: then it is made again."""
    if not file.is_file():
        return None
    try:
        parts = load_file(file)
    except SafetensorError:
        return None
    names = [part.removesuffix(_CODES) for part in parts if part.endswith(_CODES)]
    return {name: _tensor(parts[f"{name}{_CODES}"], parts[f"{name}{_SCALES}"]) for name in names}


def _tensor(codes: torch.Tensor, scales: torch.Tensor) -> QuantizedTensor:
    rows, columns = codes.shape
    return QuantizedTensor(scheme=_SIX_BITS.for_columns(columns), shape=(rows, columns), codes=codes, scales=scales)
