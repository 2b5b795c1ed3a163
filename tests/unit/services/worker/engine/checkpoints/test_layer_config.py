"""What differs between layers, read from every spelling; what contradicts itself is refused by the field's name."""

from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.model_config import DecoderConfig, parse_model_config
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

FULL, SLIDING = "full_attention", "sliding_attention"


def parse(family: str, **changes: Any) -> DecoderConfig:
    merged = {**TINY_CONFIG, "architectures": [f"{family}ForCausalLM"], "num_hidden_layers": 4, **changes}
    return parse_model_config(merged, source=Path("config.json"))


def windows(family: str, **changes: Any) -> list[int | None]:
    return [layer.sliding_window for layer in parse(family, **changes).layers]


def turns(family: str, **changes: Any) -> list[bool]:
    return [layer.rope is not None for layer in parse(family, **changes).layers]


def thetas(family: str, **changes: Any) -> list[float]:
    return [layer.rope.theta for layer in parse(family, **changes).layers if layer.rope]


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        ("Llama", {}, [None] * 4),
        ("Llama", {"layer_types": [FULL] * 4}, [None] * 4),
        ("Mistral", {"sliding_window": 9}, [9] * 4),
        ("Mistral", {"sliding_window": None}, [None] * 4),
        ("Mistral", {}, [4096] * 4),
        ("Mistral", {"sliding_window": 9, "layer_types": [SLIDING] * 4}, [9] * 4),
        ("Phi3", {"sliding_window": 9}, [9] * 4),
        ("Phi3", {}, [None] * 4),
        ("Qwen2", {"sliding_window": 9}, [None] * 4),
        ("Qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 3}, [None, None, None, 9]),
        ("Qwen2", {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 0}, [9] * 4),
        ("Qwen3", {"use_sliding_window": True}, [None] * 4),
        (
            "Qwen3",
            {"sliding_window": 9, "use_sliding_window": True, "layer_types": [SLIDING, FULL, FULL, SLIDING]},
            [9, None, None, 9],
        ),
        ("Gemma2", {}, [4096, None, 4096, None]),
        ("Gemma2", {"sliding_window": 9, "layer_types": [FULL, FULL, FULL, SLIDING]}, [None, None, None, 9]),
        ("Gemma3", {"sliding_window": 9}, [9] * 4),
        ("Gemma3", {"sliding_window": 9, "sliding_window_pattern": 3}, [9, 9, None, 9]),
        ("SmolLM3", {"sliding_window": 9}, [None] * 4),
        ("SmolLM3", {"sliding_window": 9, "use_sliding_window": True}, [None, None, None, 9]),
    ],
)
def test_which_layers_slide(family: str, fields: dict[str, Any], expected: list[int | None]) -> None:
    assert windows(family, **fields) == expected


def test_which_layers_turn() -> None:
    assert turns("Llama") == [True] * 4
    assert turns("SmolLM3") == [True, True, True, False]
    assert turns("SmolLM3", no_rope_layer_interval=2) == [True, False, True, False]
    assert turns("SmolLM3", no_rope_layers=[0, 1, 1, 0], no_rope_layer_interval=2) == [False, True, True, False]


def test_thetas_are_the_families_own_where_the_file_is_silent() -> None:
    def silent(family: str, **changes: Any) -> set[float]:
        return set(thetas(family, rope_theta=None, **changes))

    assert silent("Llama") == {10_000.0}
    assert silent("SmolLM3") == {2_000_000.0}
    assert silent("Mixtral", num_local_experts=2, num_experts_per_tok=1) == {1_000_000.0}
    gemma = {"rope_theta": None, "sliding_window_pattern": 2}
    assert thetas("Gemma3", **gemma) == [10_000.0, 1_000_000.0, 10_000.0, 1_000_000.0]
    assert thetas("Gemma3", **gemma, rope_local_base_freq=7.0) == [7.0, 1_000_000.0, 7.0, 1_000_000.0]


def test_a_part_of_phi3s_heads_turns() -> None:
    rope = parse("Phi3", partial_rotary_factor=0.75).layers[0].rope
    assert rope is not None
    assert rope.rotary_size == 6


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [True] * 4),
        ({"mlp_only_layers": [0, 3]}, [False, True, True, False]),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [False, False, False, True]),
    ],
)
def test_which_layers_have_experts(fields: dict[str, Any], expected: list[bool]) -> None:
    assert [layer.has_experts for layer in parse("Qwen3Moe", **MOE, **fields).layers] == expected


def test_experts_are_read_from_both_spellings_and_have_a_width_of_their_own() -> None:
    qwen = parse("Qwen3Moe", **MOE).experts
    assert qwen is not None
    assert (qwen.num_experts, qwen.num_chosen, qwen.intermediate_size, qwen.normalise_shares) == (4, 2, 12, False)
    newer = {"num_local_experts": 4, "num_experts": None}
    assert parse("Qwen3Moe", **{**MOE, **newer}).experts == qwen
    mixtral = parse("Mixtral", num_local_experts=3, num_experts_per_tok=1).experts
    assert mixtral is not None
    assert (mixtral.num_experts, mixtral.intermediate_size, mixtral.normalise_shares) == (3, 48, True)
    assert mixtral.names.block == "block_sparse_moe"
    assert parse("Qwen3").experts is None


def test_gemma_says_its_scale_caps_and_norms() -> None:
    gemma = parse("Gemma2", query_pre_attn_scalar=64)
    assert (gemma.attention_scale, gemma.embedding_scale) == (1 / 8, 32**0.5)
    assert (gemma.attention_cap, gemma.final_cap) == (50.0, 30.0)
    assert (gemma.post_norms, gemma.norm_weights_from_one, gemma.activation) == (True, True, "gelu")
    silent = parse("Gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (silent.attention_cap, silent.final_cap) == (None, None)
    third = parse("Gemma3")
    assert (third.attention_cap, third.final_cap, third.query_key_norm) == (None, None, True)


def test_a_tied_head_is_the_default_where_it_is_the_families() -> None:
    tied = {family: parse(family, tie_word_embeddings=None).tie_word_embeddings for family in ("Llama", "Gemma3")}
    assert tied == {"Llama": False, "Gemma3": True}


@pytest.mark.parametrize(
    ("family", "fields", "subject"),
    [
        ("Llama", {"layer_types": [SLIDING] * 4}, "layer_types"),
        ("Mistral", {"sliding_window": 9, "layer_types": [FULL] * 4}, "layer_types"),
        ("Mistral", {"sliding_window": None, "layer_types": [SLIDING] * 4}, "layer_types"),
        ("Qwen2", {"sliding_window": 9, "layer_types": [SLIDING] * 4}, "layer_types"),
        ("Qwen3", {"layer_types": [FULL] * 3}, "layer_types"),
        ("Qwen3", {"layer_types": [FULL, FULL, FULL, "linear_attention"]}, "layer_types"),
        ("Qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "max_window_layers"),
        ("Gemma2", {"sliding_window": None}, "sliding_window"),
        ("Gemma2", {"sliding_window": 0}, "sliding_window"),
        ("Gemma2", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("Gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma2", {"rope_local_base_freq": 5.0}, "rope_local_base_freq"),
        ("Gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("Gemma3", {"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters"),
        ("Gemma3", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar"),
        ("Gemma3", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("Qwen3", {"rope_parameters": {FULL: {"rope_theta": 5.0}}}, f"rope_parameters.{FULL}"),
        ("Qwen3", {"num_experts": 8}, "num_experts"),
        ("SmolLM3", {"no_rope_layers": [1, 1, 1]}, "no_rope_layers"),
        ("SmolLM3", {"no_rope_layers": [1, 1, 1, 2]}, "no_rope_layers"),
        (
            "Phi3",
            {"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 64}},
            "rope_scaling.short_factor",
        ),
        ("Phi3", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters.rope_type"),
        ("Phi3", {"partial_rotary_factor": 0.4}, "partial_rotary_factor"),
        ("Mixtral", {"num_experts_per_tok": 2}, "num_local_experts"),
        ("Mixtral", {"num_local_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok"),
        ("Mixtral", {"num_local_experts": 10**9, "num_experts_per_tok": 1}, "num_local_experts"),
        ("Qwen3Moe", {**MOE, "moe_intermediate_size": None}, "moe_intermediate_size"),
        ("Qwen3Moe", {**MOE, "mlp_only_layers": ["0"]}, "mlp_only_layers"),
        ("Qwen3Moe", {**MOE, "norm_topk_prob": 1}, "norm_topk_prob"),
        ("Gemma3n", {}, "architectures"),
    ],
)
def test_what_contradicts_or_is_not_ours_is_refused_by_name(family: str, fields: dict[str, Any], subject: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(family, **fields)
    assert caught.value.subject == subject
