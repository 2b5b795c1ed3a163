"""How much cache is taken, and which device and number type are chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.checkpoints.model_config import DecoderConfig, parse_model_config
from services.worker.engine.config import EngineConfig
from services.worker.engine.execution.cache_memory import cache_shape
from services.worker.engine.execution.cache_sizing import (
    bytes_of_a_step,
    count_blocks,
    device_budget,
)
from services.worker.engine.execution.placement import choose_device, choose_dtype
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.engine.kv_cache.layer_groups import group_layers

CPU = torch.device("cpu")


@pytest.fixture
def decoder() -> DecoderConfig:
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    return parse_model_config(raw, source=Path("config.json"))


def count(decoder: DecoderConfig, windows: tuple[int | None, ...] = (None,), **changes: Any) -> int:
    config = EngineConfig(model=Path("model"), **{"max_running_sequences": 4, **changes})
    geometry = CacheGeometry(block_size_tokens=16, max_step_tokens=32, windows=windows)
    groups = group_layers([None] * 3, max_model_tokens=100)
    block_bytes = cache_shape(decoder, groups, block_size_tokens=16, dtype=torch.bfloat16).block_bytes
    return count_blocks(config, geometry, block_bytes=block_bytes, step_bytes=0, max_model_tokens=100, device=CPU)


def test_a_block_holds_keys_and_values_of_all_layers(decoder: DecoderConfig) -> None:
    groups = group_layers([None] * 3, max_model_tokens=100)
    found = cache_shape(decoder, groups, block_size_tokens=16, dtype=torch.bfloat16).block_bytes
    assert found == 2 * 3 * 2 * 16 * 2 * 16


def test_layers_in_two_groups_make_smaller_blocks(decoder: DecoderConfig) -> None:
    groups = group_layers([None, 8, 8, None], max_model_tokens=100)
    found = cache_shape(decoder, groups, block_size_tokens=16, dtype=torch.bfloat16).block_bytes
    assert found == 2 * 2 * 2 * 16 * 2 * 16


def test_bytes_become_blocks_and_a_number_of_blocks_is_taken_as_it_is(decoder: DecoderConfig) -> None:
    assert count(decoder, kv_cache_bytes=6144 * 5 + 1) == 5
    assert count(decoder, num_kv_blocks=77, kv_cache_bytes=1) == 77


def test_no_more_is_taken_than_all_running_sequences_can_use(decoder: DecoderConfig) -> None:
    assert count(decoder, kv_cache_bytes=1 << 40) == 7 * 4
    assert 1 <= count(decoder) <= 7 * 4
    assert count(decoder, (None, 8), kv_cache_bytes=1 << 40) == (7 + 4) * 4, "a window of 8 beside a step of 32"


def test_too_little_memory_is_named(decoder: DecoderConfig) -> None:
    with pytest.raises(ValueError, match="less than the 1 blocks"):
        count(decoder, kv_cache_bytes=100)
    with pytest.raises(ValueError, match="less than the 2 blocks"):
        count(decoder, (None, 8), kv_cache_bytes=6144)
    with pytest.raises(ValueError, match="num_kv_blocks 1 is less than the 2"):
        count(decoder, (None, 8), num_kv_blocks=1)


@pytest.mark.parametrize(
    ("name", "checkpoint", "expected"),
    [
        ("auto", "float32", torch.float32),
        ("auto", "bfloat16", torch.bfloat16),
        ("auto", "float16", torch.bfloat16),
        ("float32", "bfloat16", torch.float32),
        ("float16", "bfloat16", torch.float16),
    ],
)
def test_the_number_type_on_cpu(name: str, checkpoint: str, expected: torch.dtype) -> None:
    assert choose_dtype(name, checkpoint_dtype=checkpoint, device=CPU) is expected


def test_on_a_gpu_half_precision_stays_what_it_is() -> None:
    gpu = torch.device("cuda")
    assert choose_dtype("auto", checkpoint_dtype="float16", device=gpu) is torch.float16


def test_the_device_is_what_is_there() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == CPU


def test_a_card_is_filled_to_the_fraction_whoever_uses_the_rest() -> None:
    """80 GB, of which 30 are taken (weights, another process), half a GB for the step: 0.9 of 80 leaves 41.5."""
    gigabyte = 10**9
    left = device_budget(total_bytes=80 * gigabyte, free_bytes=50 * gigabyte, fraction=0.9, step_bytes=gigabyte // 2)
    assert left == 41_500_000_000
    assert device_budget(total_bytes=80, free_bytes=2, fraction=0.9, step_bytes=0) < 0


def test_a_card_that_is_full_already_is_named(decoder: DecoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10_000))
    config = EngineConfig(model=Path("model"), device_memory_fraction=0.5)
    geometry = CacheGeometry(block_size_tokens=16, max_step_tokens=32, windows=(None,))
    with pytest.raises(ValueError, match="kv_cache_bytes -4000 is less than"):
        count_blocks(config, geometry, block_bytes=10, step_bytes=0, max_model_tokens=100, device=torch.device("cuda"))


def test_a_step_grows_with_its_tokens_and_with_the_logits_of_its_sequences(decoder: DecoderConfig) -> None:
    def size(**changes: int) -> int:
        return bytes_of_a_step(decoder, EngineConfig(model=Path("model"), **changes), dtype=torch.bfloat16)

    base = size(max_tokens_per_step=512, max_running_sequences=64)
    per_token = 2 * (6 * 64 + 3 * 128 + 4 * 6 * 16)
    assert size(max_tokens_per_step=1024, max_running_sequences=64) - base == 512 * per_token
    assert size(max_tokens_per_step=512, max_running_sequences=65) - base == 6 * 4 * 100


def test_a_block_of_low_precision_is_as_large_as_its_cells(decoder: DecoderConfig) -> None:
    """Heads of 16: 16 codes and a scale of 4 bytes; INT4 has 8 bytes of codes and 4 of scale and minimum."""
    groups = group_layers([None] * 3, max_model_tokens=100)
    per_head = {"int8": 20, "fp8": 20, "int4": 12, "16bit": 32}
    for name, num_bytes in per_head.items():
        formats = layer_formats(name, 3)
        shape = cache_shape(decoder, groups, formats, block_size_tokens=16, dtype=torch.bfloat16)
        assert shape.block_bytes == 2 * 3 * 2 * 16 * num_bytes
    cascade = cache_shape(
        decoder,
        groups,
        layer_formats("int4*1,16bit", 3),
        block_size_tokens=16,
        dtype=torch.bfloat16,
    )
    assert cascade.block_bytes == 2 * 2 * 16 * (12 + 32 + 32)


def test_layers_that_share_a_place_share_its_precision(decoder: DecoderConfig) -> None:
    groups = group_layers([None, 8, 8], max_model_tokens=100)
    with pytest.raises(ValueError, match="all see equally far"):
        cache_shape(decoder, groups, layer_formats("int4*1,16bit", 3), block_size_tokens=16, dtype=torch.bfloat16)
