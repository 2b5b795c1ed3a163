import json
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.layer_config import LayerConfig
from services.worker.engine.checkpoints.model_config import (
    Activation,
    DecoderConfig,
    parse_model_config,
    read_model_config,
)
from services.worker.engine.checkpoints.rope_scaling import Rope, RopeKind
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

SOURCE = Path("model/config.json")


def parse(**changes: Any) -> DecoderConfig:
    merged = {**TINY_CONFIG, **changes}
    return parse_model_config({name: value for name, value in merged.items() if value is not ...}, source=SOURCE)


def windows(**changes: Any) -> list[int | None]:
    return [layer.sliding_window for layer in parse(**changes).layers]


def refusal(**changes: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        parse(**changes)
    return caught.value


def test_a_llama_config_is_read_field_by_field() -> None:
    config = parse()
    assert (config.architecture, config.hidden_size, config.num_layers) == ("LlamaForCausalLM", 32, 2)
    assert (config.num_query_heads, config.num_kv_heads, config.head_size) == (4, 2, 8)
    assert (config.intermediate_size, config.vocabulary_size, config.rms_norm_eps) == (48, 64, 1e-5)
    rope = Rope(theta=10_000.0, rotary_size=8)
    assert config.layers == (LayerConfig(sliding_window=None, rope=rope, has_experts=False),) * 2
    assert (config.activation, config.embedding_scale, config.attention_scale) == (Activation.SILU, 1.0, 8**-0.5)
    assert (config.attention_cap, config.final_cap, config.post_norms, config.experts) == (None, None, False, None)
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (False, False, False)
    assert (config.torch_dtype, config.bos_token_id, config.eos_token_ids) == ("float32", 1, (2,))


def test_both_spellings_of_a_config_mean_the_same() -> None:
    newer = parse(
        rope_theta=...,
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default"},
        torch_dtype=...,
        dtype="float32",
    )
    assert newer == parse()


def test_rope_parameters_win_over_the_older_spelling() -> None:
    def theta(**changes: Any) -> float:
        rope = parse(rope_theta=500.0, **changes).layers[0].rope
        assert rope is not None
        return rope.theta

    assert theta(rope_parameters={"rope_theta": 9_000.0}) == 9_000.0
    assert theta(rope_parameters={"rope_type": "default"}) == 500.0


def test_an_explicit_head_size_need_not_divide_the_hidden_size() -> None:
    config = parse(head_dim=16)
    assert config.head_size == 16


def test_key_value_heads_default_to_query_heads() -> None:
    assert parse(num_key_value_heads=...).num_kv_heads == 4
    assert parse(num_key_value_heads=None).num_kv_heads == 4


def test_end_of_text_may_be_a_list() -> None:
    assert parse(eos_token_id=[2, 7]).eos_token_ids == (2, 7)
    assert parse(eos_token_id=None).eos_token_ids == ()


@pytest.mark.parametrize(
    ("architecture", "fields", "attention", "output", "norm"),
    [
        ("LlamaForCausalLM", {"attention_bias": True}, True, True, False),
        ("MistralForCausalLM", {"attention_bias": True}, False, False, False),
        ("Qwen2ForCausalLM", {}, True, False, False),
        ("Qwen3ForCausalLM", {}, False, False, True),
    ],
)
def test_what_an_architecture_implies_is_made_explicit(
    architecture: str, fields: dict[str, Any], attention: bool, output: bool, norm: bool
) -> None:
    config = parse(architectures=[architecture], **fields)
    found = (config.attention_bias, config.attention_output_bias, config.query_key_norm)
    assert found == (attention, output, norm)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", ["BertModel"]),
        ("architectures", None),
        ("architectures", ["LlamaForCausalLM", "Other"]),
        ("hidden_size", 0),
        ("hidden_size", "32"),
        ("hidden_size", ...),
        ("num_hidden_layers", True),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("vocab_size", -1),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", "tiny"),
        ("rope_theta", -1.0),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", "yes"),
        ("attention_bias", 1),
        ("torch_dtype", "float8_e4m3fn"),
        ("partial_rotary_factor", 0.5),
        ("sliding_window", 64),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("eos_token_id", "</s>"),
        ("eos_token_id", [1, None]),
        ("bos_token_id", -1),
        ("rope_scaling", "linear"),
        ("final_logit_softcapping", 30.0),
        ("num_local_experts", 8),
        ("query_pre_attn_scalar", 64),
        ("use_bidirectional_attention", True),
        ("no_rope_layers", [1, 0]),
        ("rope_local_base_freq", 10_000.0),
        ("num_hidden_layers", 1_000_000),
    ],
)
def test_what_cannot_be_served_is_refused_by_the_fields_name(field: str, value: Any) -> None:
    error = refusal(**{field: value})
    assert error.subject == field
    assert str(error).startswith(f"{SOURCE}: {field}: ")


def test_heads_that_do_not_divide_the_hidden_size_need_a_head_size() -> None:
    assert refusal(num_attention_heads=5, num_key_value_heads=5).subject == "head_dim"


def test_a_window_that_no_position_leaves_is_no_window() -> None:
    assert parse(sliding_window=128) == parse()


def test_qwens_window_counts_only_when_switched_on() -> None:
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64}
    assert windows(**qwen, use_sliding_window=False) == [None, None]
    assert windows(**qwen, use_sliding_window=True) == [None, None]
    assert windows(**qwen, use_sliding_window=True, max_window_layers=1) == [None, 64]


def test_neutral_values_of_foreign_features_are_accepted() -> None:
    assert parse(quantization_config=None, partial_rotary_factor=1.0, num_experts=0) == parse()


def test_a_rope_scaling_arrives_in_the_config() -> None:
    rope = parse(rope_scaling={"type": "linear", "factor": 4}).layers[1].rope
    assert rope is not None
    assert rope.scaling is not None
    assert (rope.scaling.kind, rope.scaling.factor) == (RopeKind.LINEAR, 4.0)


def test_a_config_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY_CONFIG))
    assert read_model_config(tmp_path) == parse()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]"])
def test_a_config_file_that_is_no_json_object_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_model_config(tmp_path)
    assert caught.value.file == tmp_path / "config.json"


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: the file is missing"):
        read_model_config(tmp_path)
