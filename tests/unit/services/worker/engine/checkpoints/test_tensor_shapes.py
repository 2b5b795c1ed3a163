from pathlib import Path
from typing import Any

from services.worker.engine.checkpoints.model_config import parse_model_config
from services.worker.engine.checkpoints.tensor_shapes import Shape, expected_shapes
from tests.fixtures.tiny_checkpoint import TINY_CONFIG


def shapes(**changes: Any) -> dict[str, Shape]:
    return expected_shapes(parse_model_config({**TINY_CONFIG, **changes}, source=Path("config.json")))


def test_a_llama_has_nine_tensors_a_layer_and_three_outside() -> None:
    assert len(shapes()) == 2 * 9 + 3
    assert len(shapes(num_hidden_layers=5)) == 5 * 9 + 3


def test_grouped_heads_make_keys_and_values_narrow() -> None:
    found = shapes(head_dim=16)
    assert found["model.layers.1.self_attn.q_proj.weight"] == (64, 32)
    assert found["model.layers.1.self_attn.k_proj.weight"] == (32, 32)
    assert found["model.layers.1.self_attn.v_proj.weight"] == (32, 32)
    assert found["model.layers.1.self_attn.o_proj.weight"] == (32, 64)


def test_the_feed_forward_widens_and_narrows() -> None:
    found = shapes()
    assert found["model.layers.0.mlp.gate_proj.weight"] == found["model.layers.0.mlp.up_proj.weight"] == (48, 32)
    assert found["model.layers.0.mlp.down_proj.weight"] == (32, 48)


def test_a_tied_head_is_no_tensor_of_its_own() -> None:
    assert set(shapes()) - set(shapes(tie_word_embeddings=True)) == {"lm_head.weight"}


def test_biases_appear_where_the_architecture_has_them() -> None:
    def biases(**changes: Any) -> set[str]:
        prefix = "model.layers.0."
        return {name.removeprefix(prefix) for name in shapes(**changes) if name.startswith(prefix) and "bias" in name}

    attention = {f"self_attn.{part}_proj.bias" for part in "qkv"}
    assert biases() == set()
    assert biases(architectures=["Qwen2ForCausalLM"]) == attention
    assert biases(attention_bias=True) == attention | {"self_attn.o_proj.bias"}
    assert biases(mlp_bias=True) == {f"mlp.{part}_proj.bias" for part in ("gate", "up", "down")}


def test_query_and_key_norms_are_one_head_wide() -> None:
    found = shapes(architectures=["Qwen3ForCausalLM"], head_dim=16)
    assert found["model.layers.0.self_attn.q_norm.weight"] == (16,)
    assert found["model.layers.0.self_attn.k_norm.weight"] == (16,)


def names_of_a_layer(layer: int = 0, **changes: Any) -> set[str]:
    prefix = f"model.layers.{layer}."
    return {name.removeprefix(prefix) for name in shapes(**changes) if name.startswith(prefix)}


def test_gemma_has_four_norms_around_its_blocks() -> None:
    def norms(family: str) -> set[str]:
        return {name for name in names_of_a_layer(architectures=[family]) if "layernorm" in name}

    added = {"pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"}
    assert norms("Gemma2ForCausalLM") - norms("LlamaForCausalLM") == added


def test_phi3_stores_its_projections_in_one_piece() -> None:
    found = shapes(architectures=["Phi3ForCausalLM"])
    assert found["model.layers.0.self_attn.qkv_proj.weight"] == (32 + 16 + 16, 32)
    assert found["model.layers.0.mlp.gate_up_proj.weight"] == (2 * 48, 32)
    assert "model.layers.0.self_attn.q_proj.weight" not in found


def test_experts_are_tensors_of_their_own() -> None:
    mixtral = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
    found = shapes(**mixtral)
    assert found["model.layers.1.block_sparse_moe.gate.weight"] == (3, 32)
    assert found["model.layers.1.block_sparse_moe.experts.2.w1.weight"] == (48, 32)
    assert found["model.layers.1.block_sparse_moe.experts.2.w2.weight"] == (32, 48)
    assert not any("mlp" in name for name in found)


def test_a_dense_layer_among_experts_has_the_dense_width() -> None:
    qwen = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 12,
        "mlp_only_layers": [0],
    }
    found = shapes(**qwen)
    assert found["model.layers.0.mlp.gate_proj.weight"] == (48, 32)
    assert found["model.layers.1.mlp.experts.1.gate_proj.weight"] == (12, 32)
    assert "model.layers.1.mlp.gate_proj.weight" not in found
