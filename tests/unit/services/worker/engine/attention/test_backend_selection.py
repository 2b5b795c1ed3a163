"""`auto` takes the native kernels where they can do the model, and says why where it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.attention.backend_selection import select_attention
from services.worker.engine.checkpoints.model_config import DecoderConfig, parse_model_config
from services.worker.engine.native.library import load_kernels
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

CPU = torch.device("cpu")
GEMMA = {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 16}


def config(**changes: Any) -> DecoderConfig:
    return parse_model_config({**TINY_CONFIG, **changes}, source=Path("config.json"))


@pytest.mark.parametrize("changes", [{}, GEMMA, {"architectures": ["MistralForCausalLM"], "sliding_window": 8}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_and_soft_caps_are_no_reason_against_the_kernels(changes: dict[str, Any], dtype: torch.dtype) -> None:
    if load_kernels(dtype) is None:
        pytest.skip("no C compiler here")
    backend, note = select_attention("auto", config(**changes), device=CPU, dtype=dtype)
    assert (backend.name, note) == ("native", "")


@pytest.mark.parametrize(
    ("changes", "dtype", "device", "reason"),
    [
        ({"head_dim": 258}, torch.float32, "cpu", "heads of 258 are larger than 256"),
        ({"num_attention_heads": 130, "head_dim": 8}, torch.float32, "cpu", "65 query heads to a kv head"),
        ({}, torch.float16, "cpu", "no kernels for torch.float16 here"),
        ({}, torch.bfloat16, "cuda", "the kernels are for the CPU, not for cuda"),
    ],
)
def test_where_the_kernels_cannot_auto_says_why(
    changes: dict[str, Any], dtype: torch.dtype, device: str, reason: str
) -> None:
    backend, note = select_attention("auto", config(**changes), device=torch.device(device), dtype=dtype)
    assert backend.name == "gather"
    assert reason in note
    with pytest.raises(ValueError, match=f"no native attention: .*{reason}"):
        select_attention("native", config(**changes), device=torch.device(device), dtype=dtype)


@pytest.mark.parametrize("name", ["gather", "reference"])
def test_a_named_backend_needs_no_excuse(name: str) -> None:
    backend, note = select_attention(name, config(), device=CPU, dtype=torch.float32)
    assert (backend.name, note) == (name, "")


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="unknown attention backend 'flash'"):
        select_attention("flash", config(), device=CPU, dtype=torch.float32)
