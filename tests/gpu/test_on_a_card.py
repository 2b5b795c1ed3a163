"""What only a CUDA device can show: compiled kernels, recorded steps, no hidden waiting, memory by fraction."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.flash_attention import FlashAttention2, FlashAttention3, import_flash
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.sdpa_attention import SdpaAttention
from services.worker.engine.attention.triton_attention import TritonAttention
from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.engine.models.decoder_operators import TorchOperators
from services.worker.engine.models.triton_operators import TritonOperators
from tests.attention_cases import TOLERANCES, AttentionCase, make_case
from tests.builders import tiny_checkpoint
from tests.engine_driver import drive, make_submit

pytestmark = pytest.mark.gpu
MIXED = [(7, 1000), (1, 33), (200, 200), (1, 3000), (65, 130), (1, 1)]


def on_card(case: AttentionCase) -> AttentionCase:
    layout = case.layout
    moved = {
        name: getattr(layout, name).cuda()
        for name in ("positions", "slots", "block_tables", "context_lengths", "query_starts")
    }
    return replace(case, queries=case.queries.cuda(), cache=case.cache.cuda(), layout=replace(layout, **moved))


def flash(version: int) -> AttentionBackend:
    if importlib.util.find_spec({2: "flash_attn", 3: "flash_attn_interface"}[version]) is None:
        pytest.skip(f"flash-attn {version} is not installed")
    module = import_flash(version)
    return FlashAttention2(module) if version == 2 else FlashAttention3(module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_size", [64, 80, 128])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (70, None), (None, 3.0)])
@pytest.mark.parametrize("name", ["triton", "sdpa", "flash-attn-2", "flash-attn-3"])
def test_compiled_attention_equals_the_reference(
    name: str, dtype: torch.dtype, head_size: int, window: int | None, soft_cap: float | None
) -> None:
    if name == "sdpa" and soft_cap is not None:
        pytest.skip("sdpa has no soft cap")
    made = {"triton": TritonAttention, "sdpa": SdpaAttention}
    backend = made[name]() if name in made else flash(int(name[-1]))
    case = on_card(
        make_case(
            MIXED,
            heads=14,
            kv_heads=2,
            head_size=head_size,
            block_size=256,
            dtype=dtype,
            window=window,
            soft_cap=soft_cap,
        )
    )
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(case.attend(backend), case.attend(ReferenceAttention()), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_compiled_operators_equal_torchs(dtype: torch.dtype) -> None:
    hidden, update = torch.randn(2, 300, 1024, device="cuda").to(dtype)
    weight = torch.randn(1024, device="cuda").to(dtype)
    tolerance = TOLERANCES[dtype]
    found = TritonOperators().add_rms_norm(hidden.clone(), update, weight, 1e-5)
    expected = TorchOperators().add_rms_norm(hidden.clone(), update, weight, 1e-5)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    found, expected = TritonOperators().silu_multiply(hidden), TorchOperators().silu_multiply(hidden)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path, **changes: Any) -> Engine:
    options = {"model": checkpoint, "device": "cuda", "num_kv_blocks": 64, "max_running_sequences": 8, **changes}
    return Engine.load(EngineConfig(**options))


def tokens(engine: Engine) -> dict[tuple[str, int], list[int]]:
    prompt = list(range(20, 60))
    return drive(
        engine,
        make_submit("greedy", prompt, max_tokens=20),
        make_submit("three", prompt[:7], n=3, max_tokens=15, temperature=1.0, top_p=0.9, seed=5),
    ).tokens


def test_replayed_steps_answer_like_steps_that_are_not_recorded(checkpoint: Path) -> None:
    recorded, plain = load(checkpoint), load(checkpoint, enable_cuda_graphs=False)
    assert (recorded.ready.num_decode_graphs, plain.ready.num_decode_graphs) == (4, 0)
    assert tokens(recorded) == tokens(plain) == tokens(load(checkpoint, attention_backend="reference"))


@contextmanager
def no_hidden_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_launched_without_waiting(checkpoint: Path) -> None:
    engine = load(checkpoint)
    tokens(engine)
    launch = engine._runner.launch

    def watched(batch: Any) -> Any:
        with no_hidden_waiting():
            return launch(batch)

    engine._runner.launch = watched  # type: ignore[method-assign]
    assert tokens(engine)


def test_the_cache_takes_the_fraction_of_the_card_that_was_asked_for(checkpoint: Path) -> None:
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    fraction = (total_bytes - free_bytes) / total_bytes + 0.2
    load(checkpoint, num_kv_blocks=None, device_memory_fraction=fraction, max_running_sequences=4096)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    assert (total_bytes - free_bytes) / total_bytes <= fraction + 0.02
