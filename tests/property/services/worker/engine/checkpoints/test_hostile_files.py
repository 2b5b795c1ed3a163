"""A checkpoint's files come from strangers: whatever is in them, the answer is a CheckpointError or a checkpoint."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.model_config import DecoderConfig, parse_model_config
from services.worker.engine.checkpoints.model_families import FAMILIES
from services.worker.engine.checkpoints.safetensors_files import read_headers
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.models.rope import rope_table
from tests.fixtures.tiny_checkpoint import TINY_CONFIG, tiny_tensors

FIELDS = [
    *TINY_CONFIG,
    "dtype",
    "head_dim",
    "layer_types",
    "sliding_window",
    "use_sliding_window",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "quantization_config",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "mlp_only_layers",
    "decoder_sparse_step",
    "norm_topk_prob",
    "no_rope_layers",
    "no_rope_layer_interval",
    "max_window_layers",
    "sliding_window_pattern",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "original_max_position_embeddings",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ROPE = st.dictionaries(
    st.sampled_from(["rope_type", "type", "factor", "rope_theta", "low_freq_factor", "high_freq_factor", "beta_fast"]),
    JSON | st.sampled_from(["linear", "llama3", "yarn", "default"]),
)


TWO_ROPES = st.dictionaries(st.sampled_from(["full_attention", "sliding_attention"]), ROPE | JSON)


@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON | ROPE | TWO_ROPES, max_size=4),
    architecture=st.sampled_from(list(FAMILIES)),
)
@settings(max_examples=250, deadline=None)
def test_any_config_is_read_or_refused(changes: dict[str, Any], architecture: str) -> None:
    try:
        config = parse_model_config(
            {**TINY_CONFIG, "architectures": [architecture], **changes}, source=Path("config.json")
        )
    except CheckpointError as error:
        refused = error.file, error.subject is not None
        assert refused == (Path("config.json"), True)
    else:
        assert isinstance(config, DecoderConfig)
        assert config.num_query_heads % config.num_kv_heads == 0
        assert config.head_size % 2 == 0
        for layer in config.layers:
            assert rope_table(layer.rope, 9).isfinite().all()


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "I8"]) | JSON,
        "shape": st.lists(st.integers(-3, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-4, 40), min_size=2, max_size=2) | JSON,
    },
)


@given(header=st.dictionaries(st.sampled_from(["w", "v", "__metadata__"]), ENTRY | JSON) | JSON, data=st.binary())
@settings(max_examples=200, deadline=None)
def test_any_safetensors_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "hostile.safetensors"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    with contextlib.suppress(CheckpointError):
        for stored in read_headers([file]).values():
            assert all(size >= 0 for size in stored.shape)


@given(place=st.integers(0, 3000), value=st.binary(min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_damaged_safetensors_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: bytes
) -> None:
    directory = tmp_path_factory.getbasetemp() / "damaged"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(TINY_CONFIG))
    content = bytearray(save(tiny_tensors(TINY_CONFIG)))
    content[place : place + len(value)] = value
    (directory / "model.safetensors").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(directory)
        assert all(checkpoint.tensor(name) is not None for name in checkpoint.tensor_names())
