"""Which tensors a decoder of a given shape consists of, under their Hugging Face names."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.layer_config import ExpertsConfig, LayerConfig
from services.worker.engine.checkpoints.model_config import DecoderConfig

Shape = tuple[int, ...]

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def expected_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Every tensor that must be there; a tied head is the embedding and has no tensor of its own."""
    shapes: dict[str, Shape] = {
        _EMBEDDING: (config.vocabulary_size, config.hidden_size),
        "model.norm.weight": (config.hidden_size,),
    }
    if not config.tie_word_embeddings:
        shapes[_HEAD] = (config.vocabulary_size, config.hidden_size)
    for index, layer in enumerate(config.layers):
        for name, shape in _layer_shapes(config, layer):
            shapes[f"model.layers.{index}.{name}"] = shape
    return shapes


def _layer_shapes(config: DecoderConfig, layer: LayerConfig) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden_size
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    if config.post_norms:
        yield "pre_feedforward_layernorm.weight", (hidden,)
        yield "post_feedforward_layernorm.weight", (hidden,)
    yield from _attention_shapes(config)
    if layer.has_experts and config.experts is not None:
        yield from _expert_shapes(config.experts, hidden)
    else:
        yield from _dense_shapes(config)


def _attention_shapes(config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden_size
    query = config.num_query_heads * config.head_size
    key_value = config.num_kv_heads * config.head_size
    parts = [("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)]
    for name, rows in [("qkv_proj", query + 2 * key_value)] if config.fused_projections else parts:
        yield from _linear(f"self_attn.{name}", rows, hidden, has_bias=config.attention_bias)
    yield from _linear("self_attn.o_proj", hidden, query, has_bias=config.attention_output_bias)
    if config.query_key_norm:
        yield "self_attn.q_norm.weight", (config.head_size,)
        yield "self_attn.k_norm.weight", (config.head_size,)


def _dense_shapes(config: DecoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    parts = [("gate_proj", inner), ("up_proj", inner)]
    for name, rows in [("gate_up_proj", 2 * inner)] if config.fused_projections else parts:
        yield from _linear(f"mlp.{name}", rows, hidden, has_bias=config.mlp_bias)
    yield from _linear("mlp.down_proj", hidden, inner, has_bias=config.mlp_bias)


def _expert_shapes(experts: ExpertsConfig, hidden: int) -> Iterator[tuple[str, Shape]]:
    names, inner = experts.names, experts.intermediate_size
    yield f"{names.block}.gate.weight", (experts.num_experts, hidden)
    for expert in range(experts.num_experts):
        prefix = f"{names.block}.experts.{expert}."
        yield f"{prefix}{names.gate}.weight", (inner, hidden)
        yield f"{prefix}{names.up}.weight", (inner, hidden)
        yield f"{prefix}{names.down}.weight", (hidden, inner)


def _linear(name: str, rows: int, columns: int, *, has_bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if has_bias:
        yield f"{name}.bias", (rows,)


def check_shapes(found: Mapping[str, tuple[Path, Shape]], config: DecoderConfig, source: Path) -> None:
    """Refuse a checkpoint that lacks a tensor, has one of another shape, or one that we would silently ignore."""
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(source, "the tensor is missing", subject=name)
        file, found_shape = found[name]
        if found_shape != shape:
            raise CheckpointError(file, f"shape is {found_shape}, must be {shape}", subject=name)
    for name in _unknown(found, expected, config):
        raise CheckpointError(found[name][0], f"the tensor has no place in {config.architecture}", subject=name)


def _unknown(found: Iterable[str], expected: Mapping[str, Shape], config: DecoderConfig) -> Iterator[str]:
    """Old Llama checkpoints carry their rope angles, tied ones a second copy of the head: both change nothing."""
    for name in sorted(found):
        is_copy_of_embedding = name == _HEAD and config.tie_word_embeddings
        if name not in expected and not name.endswith("rotary_emb.inv_freq") and not is_copy_of_embedding:
            yield name
