from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from tests.fixtures.tiny_checkpoint import TINY_CONFIG, tiny_tensors, write_tiny_checkpoint

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_directory_gives_back_every_tensor(tmp_path: Path, num_shards: int) -> None:
    written = write_tiny_checkpoint(tmp_path, num_shards=num_shards)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensor_names() == sorted(written)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in written.items())


def test_a_tensor_comes_in_the_type_asked_for(tmp_path: Path) -> None:
    written = write_tiny_checkpoint(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensor(QUERY).dtype is torch.float32
    assert torch.equal(checkpoint.tensor(QUERY, torch.bfloat16), written[QUERY].bfloat16())


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"architectures": ["Qwen2ForCausalLM"]},
        {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
        {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 1},
    ],
)
def test_every_supported_shape_opens(tmp_path: Path, config: dict[str, Any]) -> None:
    written = write_tiny_checkpoint(tmp_path, config=config)
    assert open_checkpoint(tmp_path).tensor_names() == sorted(written)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = tiny_tensors(TINY_CONFIG)
    del tensors[QUERY]
    write_tiny_checkpoint(tmp_path, tensors=tensors)
    with pytest.raises(CheckpointError, match="the tensor is missing") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.subject == QUERY


def test_a_tensor_of_the_wrong_shape_is_named_with_its_file(tmp_path: Path) -> None:
    tensors = tiny_tensors(TINY_CONFIG) | {QUERY: torch.zeros(32, 31)}
    write_tiny_checkpoint(tmp_path, tensors=tensors)
    with pytest.raises(CheckpointError, match=r"shape is \(32, 31\), must be \(32, 32\)") as caught:
        open_checkpoint(tmp_path)
    assert (caught.value.file.name, caught.value.subject) == ("model.safetensors", QUERY)


def test_a_tensor_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    write_tiny_checkpoint(tmp_path, tensors=tiny_tensors(TINY_CONFIG) | {bias: torch.zeros(32)})
    with pytest.raises(CheckpointError, match="has no place in LlamaForCausalLM") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.subject == bias


def test_copies_that_change_nothing_are_tolerated(tmp_path: Path) -> None:
    config = {**TINY_CONFIG, "tie_word_embeddings": True}
    copies = {
        "lm_head.weight": torch.zeros(64, 32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
    }
    write_tiny_checkpoint(tmp_path, config=config, tensors=tiny_tensors(config) | copies)
    names = open_checkpoint(tmp_path).tensor_names()
    assert "model.embed_tokens.weight" in names
    assert not set(names) & set(copies)


def test_asking_for_a_tensor_that_is_not_there_names_it(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such tensor") as caught:
        open_checkpoint(tmp_path).tensor("model.layers.9.mlp.up_proj.weight")
    assert caught.value.subject == "model.layers.9.mlp.up_proj.weight"


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_checkpoint(tmp_path / "model.bin")


def test_the_fingerprint_names_weights_and_configuration(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "one")
    write_tiny_checkpoint(tmp_path / "same")
    write_tiny_checkpoint(tmp_path / "theta", config={"rope_theta": 9_999.0})
    other = tiny_tensors(TINY_CONFIG)
    other[QUERY] = other[QUERY] + 1
    write_tiny_checkpoint(tmp_path / "weights", tensors=other)
    prints = {name: open_checkpoint(tmp_path / name).fingerprint for name in ("one", "same", "theta", "weights")}
    assert prints["one"] == prints["same"]
    assert len(set(prints.values())) == 3
