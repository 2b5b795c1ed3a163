"""What a GGUF file says about its model, translated to the words of a Hugging Face config.json.

Only the translation: `parse_model_config` judges the result, so that both kinds of checkpoint obey one set of rules.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError

_MAGIC = b"GGUF"
_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
}


class GgufMetadata:
    """The key-value section of one file. A value is read when asked for: vocabularies are large."""

    def __init__(self, file: Path, reader: gguf.GGUFReader) -> None:
        self.file = file
        self._reader = reader
        self.architecture = str(self.require("general.architecture"))
        if self.architecture not in _ARCHITECTURES:
            supported = ", ".join(_ARCHITECTURES)
            raise self.error("general.architecture", f"{self.architecture!r} is not one of {supported}")

    def get(self, key: str, default: Any = None) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise self.error(key, "is missing")
        return value

    def of_model(self, key: str) -> Any:
        """`attention.head_count` is `llama.attention.head_count` in a Llama file."""
        return self.require(f"{self.architecture}.{key}")

    def error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(self.file, problem, subject=key)


def open_gguf(file: Path) -> gguf.GGUFReader:
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise CheckpointError(file, "not a GGUF file")
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        raise CheckpointError(file, f"damaged or truncated GGUF: {error}") from error


def hugging_face_config(metadata: GgufMetadata, *, tied: bool, dtype: str) -> dict[str, Any]:
    """The content of config.json."""
    _refuse_experts(metadata)
    num_heads = metadata.of_model("attention.head_count")
    hidden_size = metadata.of_model("embedding_length")
    architecture = metadata.architecture
    head_size = metadata.get(f"{architecture}.attention.key_length", hidden_size // num_heads)
    class_name, model_type = _ARCHITECTURES[architecture]
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": metadata.of_model("feed_forward_length"),
        "num_hidden_layers": metadata.of_model("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": metadata.get(f"{architecture}.attention.head_count_kv", num_heads),
        "head_dim": head_size,
        "max_position_embeddings": metadata.of_model("context_length"),
        "rms_norm_eps": _shortest(metadata.of_model("attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(metadata.get(f"{architecture}.rope.freq_base", 10_000.0)),
        "vocab_size": _vocabulary_size(metadata),
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    config["rope_scaling"] = _rope_scaling(metadata)
    return {name: value for name, value in config.items() if value is not None}


def _refuse_experts(metadata: GgufMetadata) -> None:
    key = f"{metadata.architecture}.expert_count"
    if metadata.get(key, 0):
        raise metadata.error(key, "mixtures of experts are not supported")


def _vocabulary_size(metadata: GgufMetadata) -> int:
    key = f"{metadata.architecture}.vocab_size"
    return int(metadata.get(key) or len(metadata.require("tokenizer.ggml.tokens")))


def _rope_scaling(metadata: GgufMetadata) -> dict[str, Any] | None:
    prefix = f"{metadata.architecture}.rope.scaling"
    kind = metadata.get(f"{prefix}.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": _shortest(metadata.require(f"{prefix}.factor"))}
    original = metadata.get(f"{prefix}.original_context_length")
    return scaling if original is None else {**scaling, "original_max_position_embeddings": original}


def _shortest(value: float) -> float:
    """GGUF keeps 32-bit floats: 1e-05, not 9.999999747378752e-06."""
    return float(str(numpy.float32(value)))
