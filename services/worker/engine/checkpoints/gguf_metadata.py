"""What a GGUF file says about its model, translated to the words of a Hugging Face config.json.

Only the translation: `parse_model_config` judges the result, so that both kinds of checkpoint obey one set of rules.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_header import check_header

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
        try:
            return default if field is None else field.contents()
        except UnicodeDecodeError as error:
            raise self.error(key, "is not UTF-8") from error

    def require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise self.error(key, "is missing")
        return value

    def of_model(self, key: str) -> str:
        """`attention.head_count` is `llama.attention.head_count` in a Llama file."""
        return f"{self.architecture}.{key}"

    def positive_integer(self, key: str, default: int | None = None) -> int:
        value = self.require(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(key, f"must be a positive integer, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The shortest decimal that means it: GGUF keeps 32-bit floats, 9.999999747378752e-06 for 1e-05."""
        value = self.require(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f"must be a number, not {value!r}")
        return float(str(numpy.float32(value)))

    def strings(self, key: str) -> list[str]:
        value = self.require(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be a list of strings")
        return value

    def token_id(self, key: str, num_tokens: int) -> int | None:
        """The id in `tokenizer.ggml.KEY_token_id`, which must be one of the vocabulary."""
        name = f"tokenizer.ggml.{key}_token_id"
        value = self.get(name)
        if value is not None and (not isinstance(value, int) or not 0 <= value < num_tokens):
            raise self.error(name, f"{value!r} is not one of {num_tokens} tokens")
        return value

    def error(self, key: str, problem: str) -> CheckpointError:
        return CheckpointError(self.file, problem, subject=key)


def open_gguf(file: Path) -> gguf.GGUFReader:
    """Raises CheckpointError. What the header walk accepts, the package reads in bounded time."""
    check_header(file)
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        raise CheckpointError(file, f"damaged or truncated GGUF: {error}") from error


def hugging_face_config(metadata: GgufMetadata, *, tied: bool, dtype: str) -> dict[str, Any]:
    """The content of config.json, all but the rope's scaling."""
    _refuse_experts(metadata)
    of_model, integer = metadata.of_model, metadata.positive_integer
    num_heads = integer(of_model("attention.head_count"))
    hidden_size = integer(of_model("embedding_length"))
    class_name, model_type = _ARCHITECTURES[metadata.architecture]
    num_tokens = _vocabulary_size(metadata)
    config: dict[str, Any] = {
        "architectures": [class_name],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": integer(of_model("feed_forward_length")),
        "num_hidden_layers": integer(of_model("block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": integer(of_model("attention.head_count_kv"), num_heads),
        "head_dim": integer(of_model("attention.key_length"), max(1, hidden_size // num_heads)),
        "max_position_embeddings": integer(of_model("context_length")),
        "rms_norm_eps": metadata.number(of_model("attention.layer_norm_rms_epsilon")),
        "rope_theta": metadata.number(of_model("rope.freq_base"), 10_000.0),
        "vocab_size": num_tokens,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": dtype,
        "bos_token_id": metadata.token_id("bos", num_tokens),
        "eos_token_id": metadata.token_id("eos", num_tokens),
        "pad_token_id": metadata.token_id("padding", num_tokens),
    }
    return {name: value for name, value in config.items() if value is not None}


def _refuse_experts(metadata: GgufMetadata) -> None:
    key = metadata.of_model("expert_count")
    if metadata.get(key, 0):
        raise metadata.error(key, "mixtures of experts are not supported")


def _vocabulary_size(metadata: GgufMetadata) -> int:
    key = metadata.of_model("vocab_size")
    if metadata.get(key):
        return metadata.positive_integer(key)
    return len(metadata.strings("tokenizer.ggml.tokens"))
