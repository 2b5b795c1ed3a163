"""The directory that quantizing fills: a file for each layer, in the end a whole compressed-tensors checkpoint.

Until it is whole it lies beside its place under another name; what is done of it is found again after an interruption
if the same was asked for, and refused by name if not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from services.worker.engine.calibration.layer_shape import linear_names
from services.worker.engine.calibration.method import LayerScheme, QuantizedLayer
from services.worker.engine.calibration.reference_layer import Weights
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.compressed_tensors_layout import read_compressed_tensors
from services.worker.engine.checkpoints.compressed_tensors_writer import encode, quantization_config
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.model_config import CONFIG_FILE, DecoderConfig, read_json
from services.worker.engine.checkpoints.quantization_config import FIELD
from services.worker.engine.checkpoints.tensor_shapes import expected_shapes
from services.worker.engine.quantization.scheme import QuantizationScheme

_TASK_FILE = "quantizing.json"
_INDEX_FILE = "model.safetensors.index.json"
_COMPANIONS = ("tokenizer*", "generation_config.json", "special_tokens_map.json", "chat_template*", "*.model")
_WRITTEN_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What makes two runs the same: names and digests, no paths."""

    source_fingerprint: str
    method: str
    scheme: str
    calibration: str


class QuantizedCheckpoint:
    """`out` must not exist or be empty. Raises CheckpointError."""

    def __init__(self, source: Path, out: Path, config: DecoderConfig, scheme: LayerScheme, task: Task) -> None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise CheckpointError(out, "exists already and is not an empty directory")
        self._source = source
        self._out = out
        self._config = config
        self._scheme = scheme
        self._folder = out.parent / f".{out.name}.unfinished"
        self._dtype = _WRITTEN_TYPES[config.torch_dtype]
        self._section = self._quantization_section()
        self._begin_or_resume(task)

    def has_layer(self, index: int) -> bool:
        return self._file(index).is_file()

    def write_layer(self, index: int, layer: QuantizedLayer, weights: Weights) -> None:
        """`weights`: all tensors of the layer as they were, under their names without the layer's prefix."""
        stored: dict[str, torch.Tensor] = {}
        for name, tensor in layer.linears.items():
            stored |= {f"{name}.{suffix}": part for suffix, part in encode(tensor).items()}
        for name, plain in {**weights, **layer.changed}.items():
            if name.removesuffix(".weight") not in layer.linears:
                stored[name] = plain.to(self._dtype)
        self._save(self._file(index), {f"model.layers.{index}.{name}": part for name, part in stored.items()})

    def read_layer(self, index: int) -> dict[str, torch.Tensor]:
        """The layer as it computes from now on: every linear dequantized, float32."""
        prefix = f"model.layers.{index}."
        stored = {name.removeprefix(prefix): part for name, part in load_file(self._file(index)).items()}
        layout = read_compressed_tensors(ConfigFields(self._section, self._folder / CONFIG_FILE))
        weights = {}
        for name in linear_names(self._config):
            parts = {
                part.removeprefix(f"{name}."): stored.pop(part)
                for part in list(stored)
                if part.startswith(f"{name}.") and not part.endswith(".bias")
            }
            shape = _shape_of(name, self._config)
            weights[f"{name}.weight"] = layout.assemble(prefix + name, shape, parts).dequantize()
        return weights | {name: part.float() for name, part in stored.items()}

    def finish(self, others: Mapping[str, torch.Tensor]) -> None:
        """`others`: what belongs to no layer. After this the checkpoint is in its place, whole."""
        self._save(
            self._folder / "model-others.safetensors", {name: part.to(self._dtype) for name, part in others.items()}
        )
        files = sorted(self._folder.glob("model-*.safetensors"))
        weight_map = {name: file.name for file in files for name in _names_in(file)}
        total_bytes = sum(file.stat().st_size for file in files)
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        _write_json(self._folder / _INDEX_FILE, index)
        config = {**read_json(self._source / CONFIG_FILE), FIELD: self._section}
        _write_json(self._folder / CONFIG_FILE, config)
        for pattern in _COMPANIONS:
            for file in self._source.glob(pattern):
                shutil.copyfile(file, self._folder / file.name)
        (self._folder / _TASK_FILE).unlink()
        if self._out.exists():
            self._out.rmdir()
        self._folder.rename(self._out)

    def _begin_or_resume(self, task: Task) -> None:
        file = self._folder / _TASK_FILE
        wanted = {name: getattr(task, name) for name in task.__dataclass_fields__}
        self._folder.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            _write_json(file, wanted)
            return
        begun = read_json(file)
        for name, value in wanted.items():
            if begun.get(name) != value:
                problem = f"was begun with {begun.get(name)!r}, not {value!r}; remove the directory to begin again"
                raise CheckpointError(self._folder, problem, subject=name)

    def _quantization_section(self) -> dict[str, Any]:
        targets: dict[QuantizationScheme, list[str]] = {}
        for name in linear_names(self._config):
            scheme = self._scheme.for_columns(_shape_of(name, self._config)[1])
            targets.setdefault(scheme, []).extend(
                f"model.layers.{index}.{name}" for index in range(self._config.num_layers)
            )
        return quantization_config(targets, activations=self._scheme.activations, ignored=["lm_head"])

    def _file(self, index: int) -> Path:
        return self._folder / f"model-layer-{index:04}.safetensors"

    def _save(self, file: Path, tensors: dict[str, torch.Tensor]) -> None:
        """Appears whole or not at all: a file that is there is done."""
        unfinished = file.with_suffix(".writing")
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, unfinished, metadata={"format": "pt"})
        unfinished.chmod(0o644)
        unfinished.rename(file)


def _shape_of(name: str, config: DecoderConfig) -> tuple[int, int]:
    rows, columns = expected_shapes(config)[f"model.layers.0.{name}.weight"]
    return rows, columns


def _names_in(file: Path) -> Iterable[str]:
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sorted(name for name in header if name != "__metadata__")


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
