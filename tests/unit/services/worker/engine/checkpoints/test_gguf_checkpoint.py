from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_checkpoint import hugging_face_name, unpermute_rows
from services.worker.engine.checkpoints.rope_scaling import RopeKind
from services.worker.engine.checkpoints.weights import Checkpoint, open_checkpoint
from tests.fixtures.tiny_gguf import HEADS, HIDDEN, KV_HEADS, LAYERS, gguf_tensors, tokens, write_tiny_gguf

LONGROPE = {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}
QUERY = "model.layers.1.self_attn.q_proj.weight"


def permute_rows(rows: numpy.ndarray, num_heads: int) -> numpy.ndarray:
    """What llama.cpp's converter does, row by row: halves of a head are interleaved."""
    head_size = rows.shape[0] // num_heads
    order = [
        head * head_size + half * head_size // 2 + pair
        for head in range(num_heads)
        for pair in range(head_size // 2)
        for half in range(2)
    ]
    return rows[order]


def opened(tmp_path: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(write_tiny_gguf(tmp_path / "tiny.gguf", **options))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.17.attn_q.bias", "model.layers.17.self_attn.q_proj.bias"),
        ("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("blk.3.ffn_down.weight", "model.layers.3.mlp.down_proj.weight"),
        ("rope_freqs.weight", None),
        ("blk.0.ffn_gate_exps.weight", None),
        ("attn_q.weight", None),
        ("blk.0.attn_q.scale", None),
    ],
)
def test_names_are_translated(name: str, expected: str | None) -> None:
    assert hugging_face_name(name) == expected


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(16, 3), (16,)])
def test_rows_are_put_back_as_they_were_before_conversion(num_heads: int, shape: tuple[int, ...]) -> None:
    rows = numpy.arange(numpy.prod(shape), dtype=numpy.float32).reshape(shape)
    assert not numpy.array_equal(permute_rows(rows, num_heads), rows)
    assert numpy.array_equal(unpermute_rows(permute_rows(rows, num_heads), num_heads), rows)


def test_the_configuration_is_read_from_the_metadata(tmp_path: Path) -> None:
    config = opened(tmp_path).config
    assert (config.architecture, config.hidden_size, config.num_layers) == ("LlamaForCausalLM", HIDDEN, LAYERS)
    assert (config.num_query_heads, config.num_kv_heads, config.head_size) == (HEADS, KV_HEADS, HIDDEN // HEADS)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-5, 128)
    assert {layer.rope.theta for layer in config.layers if layer.rope} == {50_000.0}
    assert (config.vocabulary_size, config.bos_token_id, config.eos_token_ids) == (len(tokens()), 1, (2,))
    assert config.tie_word_embeddings
    assert config.torch_dtype == "float32"


def test_tensors_have_hugging_faces_names_and_order_of_rows(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    written = gguf_tensors()
    assert len(checkpoint.tensor_names()) == len(written)
    for name, gguf_name, heads in (
        ("model.embed_tokens.weight", "token_embd.weight", None),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight", None),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight", None),
        (QUERY, "blk.1.attn_q.weight", HEADS),
        ("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", KV_HEADS),
    ):
        found = checkpoint.tensor(name).numpy()
        assert numpy.array_equal(permute_rows(found, heads) if heads else found, written[gguf_name]), name


def test_only_llama_files_have_permuted_rows(tmp_path: Path) -> None:
    tensors = gguf_tensors()
    for layer in range(LAYERS):
        for part, size in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            tensors[f"blk.{layer}.attn_{part}.bias"] = numpy.ones(size, dtype=numpy.float32)
    checkpoint = opened(tmp_path, architecture="qwen2", tensors=tensors)
    assert checkpoint.config.attention_bias
    assert numpy.array_equal(checkpoint.tensor(QUERY).numpy(), tensors["blk.1.attn_q.weight"])


def test_a_head_of_its_own_is_not_tied(tmp_path: Path) -> None:
    tensors = gguf_tensors(tied=False)
    checkpoint = opened(tmp_path, tensors=tensors)
    assert not checkpoint.config.tie_word_embeddings
    assert numpy.array_equal(checkpoint.tensor("lm_head.weight").numpy(), tensors["output.weight"])


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (gguf.GGMLQuantizationType.Q8_0, 0.02),
        (gguf.GGMLQuantizationType.Q4_1, 0.3),
        (gguf.GGMLQuantizationType.Q4_0, 0.4),
        (gguf.GGMLQuantizationType.F16, 0.002),
        (gguf.GGMLQuantizationType.BF16, 0.02),
    ],
)
def test_stored_types_are_dequantized(tmp_path: Path, kind: gguf.GGMLQuantizationType, tolerance: float) -> None:
    checkpoint = opened(tmp_path, types={"blk.1.ffn_up.weight": kind})
    found = checkpoint.tensor("model.layers.1.mlp.up_proj.weight", torch.float32)
    difference = (found - torch.from_numpy(gguf_tensors()["blk.1.ffn_up.weight"])).abs().max()
    assert 0 < difference < tolerance


@pytest.mark.parametrize(
    ("kind", "stored", "declared"),
    [
        (gguf.GGMLQuantizationType.Q4_1, torch.float32, "bfloat16"),
        (gguf.GGMLQuantizationType.F16, torch.float16, "float16"),
        (gguf.GGMLQuantizationType.BF16, torch.bfloat16, "bfloat16"),
    ],
)
def test_the_type_of_the_first_query_weight_is_the_checkpoints(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, stored: torch.dtype, declared: str
) -> None:
    checkpoint = opened(tmp_path, types={"blk.0.attn_q.weight": kind})
    assert checkpoint.config.torch_dtype == declared
    assert checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").dtype is stored


def test_a_linear_rope_scaling_is_carried_over(tmp_path: Path) -> None:
    values = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = opened(tmp_path, values=values).config.layers[0].rope
    assert rope is not None
    scaling = rope.scaling
    assert scaling is not None
    assert (scaling.kind, scaling.factor) == (RopeKind.LINEAR, 4.0)


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ({"architecture": "mamba"}, "general.architecture"),
        ({"values": {"llama.expert_count": 8}}, "llama.expert_count"),
        ({"values": {"llama.block_count": None}}, "llama.block_count"),
        (
            {"values": {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}},
            "rope_scaling.original_max_position_embeddings",
        ),
        ({"values": {"llama.block_count": 3}}, "model.layers.2.input_layernorm.weight"),
        ({"values": {"llama.feed_forward_length": 95}}, "model.layers.0.mlp.gate_proj.weight"),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path: Path, options: dict[str, Any], subject: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, **options)
    assert (caught.value.file.name, caught.value.subject) == ("tiny.gguf", subject)


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    tensors = gguf_tensors() | {"blk.0.ffn_gate_exps.weight": numpy.ones(8, dtype=numpy.float32)}
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, tensors=tensors)
    assert caught.value.subject == "blk.0.ffn_gate_exps.weight"


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
        open_checkpoint(tmp_path / "cut.gguf")


def test_the_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    first = opened(tmp_path).fingerprint
    assert opened(tmp_path).fingerprint == first
    tensors = gguf_tensors()
    tensors["blk.0.attn_v.weight"] += 1
    assert opened(tmp_path, tensors=tensors).fingerprint != first


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such tensor"):
        opened(tmp_path).tensor("lm_head.weight")


def test_quantized_weights_are_kept_in_our_order_of_rows_and_plain_ones_are_not_kept(tmp_path: Path) -> None:
    types = {
        "blk.1.attn_q.weight": gguf.GGMLQuantizationType.Q4_1,
        "blk.1.ffn_up.weight": gguf.GGMLQuantizationType.Q5_0,
    }
    checkpoint = opened(tmp_path, types=types)
    kept = checkpoint.quantized(QUERY)
    assert kept is not None
    assert kept.scheme.bits == 4
    assert torch.equal(kept.dequantize(), checkpoint.tensor(QUERY))
    assert checkpoint.quantized("model.layers.0.self_attn.q_proj.weight") is None
    assert checkpoint.quantized("model.layers.1.mlp.up_proj.weight") is None
    assert checkpoint.quantized("model.norm.weight") is None
    with pytest.raises(CheckpointError, match="no such tensor"):
        checkpoint.quantized("model.layers.9.mlp.up_proj.weight")
