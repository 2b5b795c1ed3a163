"""A GGUF file as a checkpoint: tensors under their Hugging Face names, dequantized one at a time or kept.

Source for names and for the order of query and key rows: llama.cpp, convert_hf_to_gguf.py (LlamaModel.permute).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import gguf
import numpy
import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.fingerprint import take_fingerprint
from services.worker.engine.checkpoints.gguf_blocks import can_keep, quantized_rows
from services.worker.engine.checkpoints.gguf_metadata import GgufMetadata, hugging_face_config, open_gguf
from services.worker.engine.checkpoints.gguf_rope import DIVISORS, rope_scaling
from services.worker.engine.checkpoints.model_config import parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import check_shapes
from services.worker.engine.quantization.quantized_tensor import QuantizedTensor

_WHOLE_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")
_PERMUTED_PARTS = ("attn_q.", "attn_k.")
_FLOAT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def hugging_face_name(name: str) -> str | None:
    """None for a tensor that Hugging Face's layout has no place for."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.group("layer", "part", "kind")
    if layer is None:
        return f"{_WHOLE_MODEL[part]}.{kind}" if part in _WHOLE_MODEL else None
    return f"model.layers.{layer}.{_LAYER_PARTS[part]}.{kind}" if part in _LAYER_PARTS else None


def unpermute_rows(rows: numpy.ndarray, num_heads: int) -> numpy.ndarray:
    """Undo llama.cpp's pairing of rope dimensions: its rows 0, 1, 2 ... of a head are ours 0, half, 1, half + 1 ..."""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class GgufCheckpoint:
    """Satisfies `weights.Checkpoint`. Tensors of quantized types come as float32, float types as they are."""

    def __init__(self, file: Path) -> None:
        self._file = file
        reader = open_gguf(file)
        self.metadata = GgufMetadata(file, reader)
        stored = {tensor.name: tensor for tensor in reader.tensors}
        divisors = stored.pop(DIVISORS, None)
        self._tensors = self._by_hugging_face_name(stored.values())
        config = hugging_face_config(
            self.metadata, tied="lm_head.weight" not in self._tensors, dtype=self._declared_dtype()
        )
        self.raw_config = rope_scaling(
            self.metadata, None if divisors is None else self._dequantize(DIVISORS, divisors), config
        )
        self.config = parse_model_config(self.raw_config, source=file)
        check_shapes({name: (file, _shape(stored)) for name, stored in self._tensors.items()}, self.config, file)
        self.fingerprint = take_fingerprint(self.config, [file])

    def tensor_names(self) -> list[str]:
        return sorted(self._tensors)

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        stored = self._find(name)
        values = self._in_our_order(stored, self._dequantize(name, stored))
        tensor = torch.from_numpy(numpy.require(values, requirements=["C", "W"]))
        if stored.tensor_type.name == "BF16" and tensor.dtype is not torch.bfloat16:
            tensor = tensor.to(torch.bfloat16)
        return tensor if dtype is None else tensor.to(dtype)

    def quantized(self, name: str) -> QuantizedTensor | None:
        stored = self._find(name)
        if len(stored.shape) != 2 or not can_keep(stored.tensor_type):
            return None
        return quantized_rows(self._in_our_order(stored, numpy.asarray(stored.data)), stored.tensor_type)

    def _find(self, name: str) -> gguf.gguf_reader.ReaderTensor:
        stored = self._tensors.get(name)
        if stored is None:
            raise CheckpointError(self._file, "the checkpoint has no such tensor", subject=name)
        return stored

    def _in_our_order(self, stored: gguf.gguf_reader.ReaderTensor, rows: numpy.ndarray) -> numpy.ndarray:
        if self.metadata.architecture == "llama" and any(part in stored.name for part in _PERMUTED_PARTS):
            return unpermute_rows(rows, self._heads_of(stored.name))
        return rows

    def _by_hugging_face_name(
        self, stored: Iterable[gguf.gguf_reader.ReaderTensor]
    ) -> dict[str, gguf.gguf_reader.ReaderTensor]:
        named = {}
        for tensor in stored:
            name = hugging_face_name(tensor.name)
            if name is None:
                raise CheckpointError(self._file, "the tensor is not supported", subject=tensor.name)
            named[name] = tensor
        return named

    def _declared_dtype(self) -> str:
        """That of the first linear weight; quantized files say bfloat16, what their models were trained in."""
        stored = self._tensors.get("model.layers.0.self_attn.q_proj.weight")
        return "bfloat16" if stored is None else _FLOAT_TYPES.get(stored.tensor_type.name, "bfloat16")

    def _dequantize(self, name: str, stored: gguf.gguf_reader.ReaderTensor) -> numpy.ndarray:
        if stored.tensor_type.name in ("F32", "F16"):
            return numpy.asarray(stored.data)
        try:
            return numpy.asarray(gguf.dequantize(stored.data, stored.tensor_type))
        except NotImplementedError as error:
            problem = f"type {stored.tensor_type.name} is not supported"
            raise CheckpointError(self._file, problem, subject=name) from error

    def _heads_of(self, gguf_name: str) -> int:
        return self.config.num_query_heads if "attn_q." in gguf_name else self.config.num_kv_heads


def _shape(stored: gguf.gguf_reader.ReaderTensor) -> tuple[int, ...]:
    """GGUF counts dimensions from the innermost."""
    return tuple(int(size) for size in reversed(stored.shape))
