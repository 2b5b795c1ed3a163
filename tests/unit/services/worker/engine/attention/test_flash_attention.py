"""What we pass to flash-attn, judged by functions with its documented meaning: their answer is the reference's."""

from types import ModuleType
from typing import Any

import pytest
import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.flash_attention import FlashAttention2, FlashAttention3
from tests.attention_cases import AttentionCase, assert_equals_reference, make_case
from tests.fakes.flash_attention import flash_attn_2, flash_attn_3

LENGTHS = [
    [(1, 1)],
    [(1, 16), (1, 17), (1, 600)],
    [(40, 40)],
    [(7, 300), (1, 33), (20, 20), (1, 5), (2, 18)],
]


def backend(version: int) -> AttentionBackend:
    return FlashAttention2(flash_attn_2()) if version == 2 else FlashAttention3(flash_attn_3())


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("window", [None, 1, 16, 301])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_its_answer_is_the_references(
    version: int, lengths: list[tuple[int, int]], window: int | None, soft_cap: float | None
) -> None:
    case = make_case(
        lengths, dtype=torch.bfloat16, block_size=256, head_size=16, scale=1.3, window=window, soft_cap=soft_cap
    )
    assert_equals_reference(backend(version), case)


def test_version_3_reads_blocks_of_any_size() -> None:
    case = make_case(LENGTHS[3], dtype=torch.float16, block_size=16, heads=6, kv_heads=2)
    assert_equals_reference(backend(3), case)


def test_lengths_of_an_earlier_step_are_not_used_again() -> None:
    flash = backend(2)
    for lengths in ([(40, 40)], [(40, 300)], [(3, 9), (40, 41), (1, 4)]):
        assert_equals_reference(flash, make_case(lengths, dtype=torch.float16, block_size=256))


class Counting:
    """Counts calls of one function of a module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._function = getattr(module, name)
        self.calls: list[dict[str, Any]] = []
        setattr(module, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append(options)
        return self._function(*arguments, **options)


def test_version_2_sends_single_tokens_to_the_cache_function_and_chunks_to_the_other() -> None:
    module = flash_attn_2()
    singles, chunks = Counting(module, "flash_attn_with_kvcache"), Counting(module, "flash_attn_varlen_func")
    FlashAttention2(module)
    case = make_case(LENGTHS[3], dtype=torch.float16, block_size=256)
    case.attend(FlashAttention2(module))
    assert singles.calls[0]["cache_seqlens"].tolist() == [33, 5]
    assert chunks.calls[0]["cu_seqlens_q"].tolist() == [0, 7, 27, 29]
    assert chunks.calls[0]["cu_seqlens_k"].tolist() == [0, 300, 320, 338]
    assert (chunks.calls[0]["max_seqlen_q"], chunks.calls[0]["max_seqlen_k"]) == (20, 300)
    make_case(LENGTHS[1], dtype=torch.float16, block_size=256).attend(FlashAttention2(module))
    assert (len(singles.calls), len(chunks.calls)) == (2, 1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "change",
    [
        {"window_size": (5, 0)},
        {"window_size": (6, 1), "causal": False},
        {"softcap": 0.0},
        {"softmax_scale": None},
        {"causal": False, "window_size": (-1, -1)},
    ],
)
def test_every_argument_counts(version: int, change: dict[str, Any]) -> None:
    """The judge can fail: one wrong argument and the answers differ."""
    case = make_case([(9, 40)], dtype=torch.float16, block_size=256, scale=1.3, window=7, soft_cap=3.0)
    right = case.attend(backend(version))
    module = flash_attn_2() if version == 2 else flash_attn_3()
    name = "flash_attn_varlen_func" if version == 2 else "flash_attn_with_kvcache"
    function = getattr(module, name)
    setattr(module, name, lambda *arguments, **options: function(*arguments, **{**options, **change}))
    wrong = case.attend(FlashAttention2(module) if version == 2 else FlashAttention3(module))
    assert (wrong.float() - right.float()).abs().max() > 0.05


def test_the_judge_refuses_what_the_package_refuses() -> None:
    case = make_case([(1, 40)], dtype=torch.float16, block_size=16)
    with pytest.raises(AssertionError, match="divisible by 256"):
        case.attend(backend(2))
    wide = AttentionCase(queries=case.queries.float(), cache=case.cache.float(), layout=case.layout, rule=case.rule)
    with pytest.raises(AssertionError, match="only supports fp16 and bf16"):
        wide.attend(backend(3))
