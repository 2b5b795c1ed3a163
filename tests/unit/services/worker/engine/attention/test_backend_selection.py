"""`auto` takes the fastest that can do the model on this device, and says why not a faster one."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.attention.backend_selection import (
    BACKENDS,
    AttentionNeeds,
    CannotRun,
    attention_needs,
    select_attention,
)
from services.worker.engine.checkpoints.model_config import parse_model_config
from services.worker.engine.models.operator_selection import select_operators
from services.worker.engine.native.library import load_kernels
from tests.fakes.flash_attention import flash_attn_2, flash_attn_3
from tests.fixtures.tiny_checkpoint import TINY_CONFIG

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GEMMA = {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 16}
HOPPER = AttentionNeeds(
    head_size=64,
    group=7,
    has_soft_cap=False,
    dtype=torch.bfloat16,
    device=CUDA,
    block_size_tokens=256,
    capability=(9, 0),
)


def needs(*, dtype: torch.dtype = torch.float32, device: torch.device = CPU, **changes: Any) -> AttentionNeeds:
    config = parse_model_config({**TINY_CONFIG, **changes}, source=Path("config.json"))
    return attention_needs(config, device=device, dtype=dtype, block_size_tokens=16)


@pytest.fixture
def both_flash_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn_2())
    monkeypatch.setitem(sys.modules, "flash_attn_interface", flash_attn_3())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a card: nothing is interpreted."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("changes", [{}, GEMMA, {"architectures": ["MistralForCausalLM"], "sliding_window": 8}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_and_soft_caps_are_no_reason_against_the_kernels(changes: dict[str, Any], dtype: torch.dtype) -> None:
    if load_kernels(dtype) is None:
        pytest.skip("no C compiler here")
    backend, note = select_attention("auto", needs(dtype=dtype, **changes))
    assert (backend.name, note) == ("native", "")


@pytest.mark.parametrize(
    ("changes", "dtype", "reason"),
    [
        ({"head_dim": 258}, torch.float32, "heads of 258 are larger than 256"),
        ({"num_attention_heads": 130, "head_dim": 8}, torch.float32, "65 query heads to a kv head"),
        ({}, torch.float16, "no kernels for torch.float16 here"),
    ],
)
def test_where_the_kernels_cannot_auto_says_why(changes: dict[str, Any], dtype: torch.dtype, reason: str) -> None:
    backend, note = select_attention("auto", needs(dtype=dtype, **changes))
    assert backend.name == "gather"
    assert reason in note
    with pytest.raises(CannotRun, match=f"no native attention: .*{reason}"):
        select_attention("native", needs(dtype=dtype, **changes))


@pytest.mark.parametrize("name", ["sdpa", "gather", "reference"])
def test_a_named_backend_needs_no_excuse(name: str) -> None:
    backend, note = select_attention(name, needs())
    assert (backend.name, note) == (name, "")


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match="unknown attention backend 'flash': one of auto, flash-attn-3"):
        select_attention("flash", needs())


def test_sdpa_refuses_a_soft_cap() -> None:
    with pytest.raises(CannotRun, match=r"no sdpa attention: .*no soft cap"):
        select_attention("sdpa", needs(**GEMMA))


def test_every_backend_goes_by_the_name_it_is_asked_for(both_flash_versions: None) -> None:
    for name in BACKENDS:
        place = needs() if name == "native" else HOPPER
        if name != "native" or load_kernels(torch.float32) is not None:
            assert select_attention(name, place)[0].name == name


def test_on_a_hopper_card_the_newest_flash_attention_is_taken(both_flash_versions: None) -> None:
    backend, note = select_attention("auto", HOPPER)
    assert (backend.name, note) == ("flash-attn-3", "")


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        ({"capability": (8, 0)}, "flash-attn-2", "no flash-attn-3 attention: compute capability 9.0 is needed"),
        (
            {"capability": (8, 9), "block_size_tokens": 16},
            "triton",
            "KV blocks of 16 tokens: it reads multiples of 256",
        ),
        ({"dtype": torch.float32}, "triton", "it has no torch.float32"),
        ({"head_size": 6}, "triton", "heads of 6: it takes multiples of 8"),
        ({"head_size": 320}, "sdpa", "heads of 320 do not fit"),
        ({"head_size": 320, "has_soft_cap": True}, "gather", "has no soft cap"),
        ({"capability": (7, 5)}, "sdpa", "no triton attention: compute capability 7.5 is less than 8.0"),
        ({"capability": None}, "sdpa", "compute capability unknown"),
    ],
)
def test_on_other_cards_and_models_the_next_best_is_taken_and_the_reason_told(
    both_flash_versions: None, compiled: None, change: dict[str, Any], expected: str, reason: str
) -> None:
    backend, note = select_attention("auto", dataclasses.replace(HOPPER, **change))
    assert backend.name == expected
    assert reason in note


def test_without_the_packages_our_own_kernels_are_taken(compiled: None) -> None:
    backend, note = select_attention("auto", HOPPER)
    assert backend.name == "triton"
    assert "flash_attn_interface cannot be imported" in note
    assert "flash_attn cannot be imported" in note


def test_a_package_built_for_another_torch_is_a_reason_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "flash_attn_interface.py").write_text("raise OSError('undefined symbol: _ZN3c105ErrorC2')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotRun, match="cannot be imported: undefined symbol"):
        select_attention("flash-attn-3", HOPPER)


def test_other_devices_get_torchs_own() -> None:
    backend, _ = select_attention("auto", needs(device=torch.device("mps")))
    assert backend.name == "sdpa"


@pytest.mark.parametrize("name", ["flash-attn-2", "flash-attn-3", "triton"])
def test_a_backend_for_cards_refuses_a_processor(compiled: None, name: str) -> None:
    with pytest.raises(CannotRun, match=r"no .* attention: .*CUDA"):
        select_attention(name, needs(dtype=torch.bfloat16))


def test_operators_go_with_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_operators("triton", device=CPU, dtype=torch.float32).name == "triton"
    assert select_operators("auto", device=CUDA, dtype=torch.bfloat16).name == "triton"
    assert select_operators("flash-attn-2", device=CUDA, dtype=torch.bfloat16).name == "triton"
    assert select_operators("sdpa", device=CUDA, dtype=torch.bfloat16).name == "torch"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert select_operators("auto", device=CUDA, dtype=torch.bfloat16).name == "torch"
