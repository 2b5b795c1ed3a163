"""What a decoder must know about itself, read from a checkpoint's config.json.

Both spellings that Hugging Face has used are understood (`rope_theta` and `rope_scaling`, or `rope_parameters`;
`torch_dtype` or `dtype`). A feature that our decoder does not have is refused by the field's name: a checkpoint
that loads computes what its authors meant. Knows nothing of weights, GGUF or torch. The families are rows of
`model_families.py`; what differs between layers is read by `layer_config.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.layer_config import ExpertsConfig, LayerConfig, read_experts, read_layers
from services.worker.engine.checkpoints.model_families import FAMILIES, Family

CONFIG_FILE = "config.json"
KEPT_GGUF = "model.gguf"
"""In a directory without safetensors: the weights, as llama.cpp stores them."""

_MOST_LAYERS = 1024
_DTYPES = ("float32", "float16", "bfloat16")


_SILU = ("silu", "swish")
_GELU = ("gelu_pytorch_tanh",)

FEATURE_FIELDS: dict[str, tuple[object, ...]] = {
    "partial_rotary_factor": (None, 1, 1.0),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "use_bidirectional_attention": (None, False),
    "logit_scale": (None, 1, 1.0),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None,),
    "no_rope_layer_interval": (None,),
    "sliding_window_pattern": (None,),
    "rope_local_base_freq": (None,),
}
"""Fields that change what a decoder computes, with the values that change nothing."""


class Activation(StrEnum):
    """What the gate of a feed-forward block passes through. `gelu` is its tanh approximation."""

    SILU = "silu"
    GELU = "gelu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The shape and arithmetic of one decoder.

    `attention_bias` is that of the query, key and value projections, `attention_output_bias` that of the output
    projection. `query_key_norm`: RMS norm over each head of queries and keys before rope. `post_norms`: attention and
    feed-forward are normalised before they join the residual, too (Gemma). `norm_weights_from_one`: a stored norm
    weight w means 1 + w. `attention_cap` and `final_cap`: x becomes cap * tanh(x / cap), in scores and in logits.
    `fused_projections`: how the checkpoint stores them, not what is computed. `intermediate_size` is that of layers
    without experts. `torch_dtype` is the name of the weights' type as the checkpoint declares it.
    """

    architecture: str
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    num_query_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    vocabulary_size: int
    activation: Activation
    rms_norm_eps: float
    norm_weights_from_one: bool
    post_norms: bool
    embedding_scale: float
    attention_scale: float
    attention_cap: float | None
    final_cap: float | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    attention_output_bias: bool
    mlp_bias: bool
    query_key_norm: bool
    fused_projections: bool
    experts: ExpertsConfig | None
    torch_dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def num_layers(self) -> int:
        return len(self.layers)


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
    head_size = _read_head_size(fields, hidden_size, num_query_heads)
    max_position_embeddings = fields.positive_integer("max_position_embeddings", default=2048)
    attention_bias = fields.boolean("attention_bias", default=False)
    return DecoderConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        layers=read_layers(
            fields,
            family,
            num_layers=_read_num_layers(fields),
            head_size=head_size,
            max_position_embeddings=max_position_embeddings,
        ),
        num_query_heads=num_query_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        intermediate_size=fields.positive_integer("intermediate_size"),
        vocabulary_size=fields.positive_integer("vocab_size"),
        activation=_read_activation(fields, family),
        rms_norm_eps=fields.positive_number("rms_norm_eps", default=family.default_rms_norm_eps),
        norm_weights_from_one=family.is_gemma,
        post_norms=family.is_gemma,
        embedding_scale=hidden_size**0.5 if family.is_gemma else 1.0,
        attention_scale=_read_attention_scale(fields, family, head_size),
        attention_cap=fields.optional_number("attn_logit_softcapping", absent=family.default_attention_cap),
        final_cap=fields.optional_number("final_logit_softcapping", absent=family.default_final_cap),
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=family.default_tied),
        attention_bias=attention_bias if family.attention_bias is None else family.attention_bias,
        attention_output_bias=(
            attention_bias if family.attention_output_bias is None else family.attention_output_bias
        ),
        mlp_bias=fields.boolean("mlp_bias", default=False),
        query_key_norm=family.query_key_norm,
        fused_projections=family.has_fused_projections,
        experts=read_experts(fields, family),
        torch_dtype=_read_dtype(fields),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=fields.token_ids("eos_token_id"),
    )


def _read_architecture(fields: ConfigFields) -> tuple[str, Family]:
    names = fields.raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise fields.error("architectures", f"must be a list of one name, not {names!r}")
    if names[0] not in FAMILIES:
        raise fields.error("architectures", f"{names[0]} is not supported; we run {', '.join(FAMILIES)}")
    return names[0], FAMILIES[names[0]]


def _refuse_foreign_features(fields: ConfigFields, family: Family) -> None:
    for name, neutral in FEATURE_FIELDS.items():
        if name not in family.understands and fields.raw.get(name) not in neutral:
            raise fields.error(name, f"{fields.raw[name]!r} is not supported for this architecture")


def _read_num_layers(fields: ConfigFields) -> int:
    num_layers = fields.positive_integer("num_hidden_layers")
    if num_layers > _MOST_LAYERS:
        raise fields.error("num_hidden_layers", f"{num_layers} is more than {_MOST_LAYERS}")
    return num_layers


def _read_activation(fields: ConfigFields, family: Family) -> Activation:
    """Gemma's `hidden_act` means nothing: `hidden_activation` is the one that counts."""
    name, known = ("hidden_activation", _GELU) if family.is_gemma else ("hidden_act", _SILU)
    value = fields.raw.get(name)
    if value is not None and value not in known:
        raise fields.error(name, f"{value!r} is not supported, only {known[0]}")
    return Activation.GELU if family.is_gemma else Activation.SILU


def _read_attention_scale(fields: ConfigFields, family: Family, head_size: int) -> float:
    if not family.is_gemma:
        return float(head_size**-0.5)
    return float(fields.positive_number("query_pre_attn_scalar", default=256.0) ** -0.5)


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
