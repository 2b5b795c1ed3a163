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
