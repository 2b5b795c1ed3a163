"""What a Llama-family decoder must know about itself, read from a checkpoint's config.json.

Both spellings that Hugging Face has used are understood (`rope_theta` and `rope_scaling`, or `rope_parameters`;
`torch_dtype` or `dtype`). A feature that our decoder does not have is refused by the field's name: a checkpoint
that loads computes what its authors meant. Knows nothing of weights, GGUF or torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.rope_scaling import RopeScaling, read_rope

CONFIG_FILE = "config.json"

_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What an architecture's name implies without any field saying so."""

    attention_bias: bool | None
    attention_output_bias: bool | None
    """None: the field `attention_bias` decides."""
    query_key_norm: bool = False
    sliding_window_switch: bool = False
    """`sliding_window` counts only where `use_sliding_window` is true."""


_FAMILIES = {
    "LlamaForCausalLM": _Family(attention_bias=None, attention_output_bias=None),
    "MistralForCausalLM": _Family(attention_bias=False, attention_output_bias=False),
    "Qwen2ForCausalLM": _Family(attention_bias=True, attention_output_bias=False, sliding_window_switch=True),
    "Qwen3ForCausalLM": _Family(
        attention_bias=None, attention_output_bias=None, query_key_norm=True, sliding_window_switch=True
    ),
}

_NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1, 1.0),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "attention_chunk_size": (None,),
}
"""Fields that change what a decoder computes, with the values that change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape and arithmetic of one decoder.

    `attention_bias` is that of the query, key and value projections, `attention_output_bias` that of the output
    projection. `query_key_norm`: RMS norm over each head of queries and keys before rope (Qwen3). `torch_dtype` is
    the name of the weights' type as the checkpoint declares it.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    torch_dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(path, "the file is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(path, f"not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(path, "must be a JSON object")
    return value


def read_model_config(directory: Path) -> DecoderConfig:
    path = directory / CONFIG_FILE
    return parse_model_config(read_json(path), source=path)


def parse_model_config(raw: Mapping[str, Any], *, source: Path) -> DecoderConfig:
    """`source` is the file to name in errors."""
    fields = ConfigFields(raw, source)
    architecture, family = _read_architecture(fields)
    _refuse_foreign_features(fields, family)
    hidden_size = fields.positive_integer("hidden_size")
    num_query_heads = fields.positive_integer("num_attention_heads")
    num_kv_heads = fields.positive_integer("num_key_value_heads", default=num_query_heads)
    if num_query_heads % num_kv_heads:
        raise fields.error("num_key_value_heads", f"{num_kv_heads} does not divide {num_query_heads} heads")
    max_position_embeddings = fields.positive_integer("max_position_embeddings", default=2048)
    rope_theta, rope_scaling = read_rope(fields, max_position_embeddings)
    attention_bias = fields.boolean("attention_bias", default=False)
    return DecoderConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        num_layers=fields.positive_integer("num_hidden_layers"),
        num_query_heads=num_query_heads,
        num_kv_heads=num_kv_heads,
        head_size=_read_head_size(fields, hidden_size, num_query_heads),
        intermediate_size=fields.positive_integer("intermediate_size"),
        vocabulary_size=fields.positive_integer("vocab_size"),
        rms_norm_eps=fields.positive_number("rms_norm_eps", default=1e-6),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        attention_bias=attention_bias if family.attention_bias is None else family.attention_bias,
        attention_output_bias=(
            attention_bias if family.attention_output_bias is None else family.attention_output_bias
        ),
        mlp_bias=fields.boolean("mlp_bias", default=False),
        query_key_norm=family.query_key_norm,
        torch_dtype=_read_dtype(fields),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def _read_architecture(fields: ConfigFields) -> tuple[str, _Family]:
    names = fields.raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", f"must be a list of one name, not {names!r}")
    if names[0] not in _FAMILIES:
        raise fields.error("architectures", f"{names[0]} is not supported; we run {', '.join(_FAMILIES)}")
    return names[0], _FAMILIES[names[0]]


def _refuse_foreign_features(fields: ConfigFields, family: _Family) -> None:
    for name, neutral in _NEUTRAL_VALUES.items():
        if fields.raw.get(name) not in neutral:
            raise fields.error(name, f"{fields.raw[name]!r} is not supported")
    activation = fields.raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise fields.error("hidden_act", f"{activation!r} is not supported, only silu")
    layer_types = fields.raw.get("layer_types")
    if layer_types is not None and not (
        isinstance(layer_types, list) and all(kind == "full_attention" for kind in layer_types)
    ):
        raise fields.error("layer_types", "only full_attention is supported")
    _refuse_sliding_window(fields, family)


def _refuse_sliding_window(fields: ConfigFields, family: _Family) -> None:
    """A window that no position can leave changes nothing."""
    if family.sliding_window_switch and not fields.boolean("use_sliding_window", default=False):
        return
    window = fields.raw.get("sliding_window")
    if window is None:
        return
    if not isinstance(window, int) or window < fields.positive_integer("max_position_embeddings", default=2048):
        raise fields.error("sliding_window", f"{window!r} is not supported")


def _read_head_size(fields: ConfigFields, hidden_size: int, num_query_heads: int) -> int:
    if fields.raw.get("head_dim") is None and hidden_size % num_query_heads:
        raise fields.error("head_dim", f"{num_query_heads} heads do not divide hidden_size {hidden_size}")
    head_size = fields.positive_integer("head_dim", default=hidden_size // num_query_heads)
    if head_size % 2:
        raise fields.error("head_dim", f"{head_size} is odd: rope turns pairs")
    return head_size


def _read_dtype(fields: ConfigFields) -> str:
    name = "dtype" if fields.raw.get("dtype") is not None else "torch_dtype"
    dtype = fields.raw.get(name)
    if dtype is None:
        return "float32"
    if dtype not in _DTYPES:
        raise fields.error(name, f"{dtype!r} is not supported; one of {', '.join(_DTYPES)}")
    return str(dtype)
