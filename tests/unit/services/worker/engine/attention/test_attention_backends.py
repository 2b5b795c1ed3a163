"""The fast attention backends against the obvious one, over scattered blocks and mixed steps."""

import math

import pytest
import torch

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.attention_rule import AttentionRule
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.native_attention import NativeAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.sdpa_attention import SdpaAttention
from services.worker.engine.native.library import load_kernels
from tests.attention_cases import make_layout

BLOCK_SIZE = 16
DTYPES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
PLAIN = AttentionRule(scale=1.0)
LENGTHS = [
    [(1, 1)],
    [(1, 16), (1, 17), (1, 300)],
    [(40, 40)],
    [(7, 100), (1, 33), (20, 20), (1, 5), (2, 18)],
]


def backend(name: str, dtype: torch.dtype) -> AttentionBackend:
    if name == "gather":
        return GatherAttention()
    if name == "sdpa":
        return SdpaAttention()
    kernels = load_kernels(dtype)
    if kernels is None:
        pytest.skip("no C compiler here")
    return NativeAttention(kernels)


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size"), [(9, 3, 64), (4, 4, 32), (8, 1, 80), (6, 2, 96), (2, 1, 256), (2, 2, 6)]
)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_it_equals_the_reference(
    name: str, dtype: torch.dtype, heads: int, kv_heads: int, head_size: int, lengths: list[tuple[int, int]]
) -> None:
    torch.manual_seed(1)
    layout = make_layout(lengths)
    num_blocks = layout.block_tables.numel()
    cache = torch.randn(2, num_blocks, BLOCK_SIZE, kv_heads, head_size).to(dtype)
    queries = torch.randn(len(layout.positions), heads, head_size).to(dtype)
    rule = AttentionRule(scale=head_size**-0.5)
    expected = ReferenceAttention().attend(queries, cache[0], cache[1], layout, rule)
    found = backend(name, dtype).attend(queries, cache[0], cache[1], layout, rule)
    torch.testing.assert_close(found, expected, atol=DTYPES[dtype], rtol=DTYPES[dtype])


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("window", [None, 1, 5, 16, 33, 500])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_it_sees_as_far_as_the_window_and_caps_its_scores_like_the_reference(
    name: str, dtype: torch.dtype, lengths: list[tuple[int, int]], window: int | None, soft_cap: float | None
) -> None:
    if name == "sdpa" and soft_cap is not None:
        pytest.skip("selection leaves soft caps to others")
    torch.manual_seed(2)
    layout = make_layout(lengths)
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 2, 16).to(dtype)
    queries = torch.randn(len(layout.positions), 6, 16).to(dtype)
    rule = AttentionRule(scale=1.5, window=window, soft_cap=soft_cap)
    expected = ReferenceAttention().attend(queries, cache[0], cache[1], layout, rule)
    found = backend(name, dtype).attend(queries, cache[0], cache[1], layout, rule)
    torch.testing.assert_close(found, expected, atol=DTYPES[dtype], rtol=DTYPES[dtype])


def test_a_window_of_one_sees_only_itself() -> None:
    layout = make_layout([(3, 20), (1, 7)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 1, 8)
    rule = AttentionRule(scale=1.0, window=1)
    found = ReferenceAttention().attend(torch.randn(4, 1, 8), cache[0], cache[1], layout, rule)
    rows = [0, 1, 1, 1]
    for token, (row, position) in enumerate(zip(rows, layout.positions.tolist(), strict=True)):
        block = int(layout.block_tables[row, position // BLOCK_SIZE])
        torch.testing.assert_close(found[token], cache[1, block, position % BLOCK_SIZE, 0])


def test_a_tiny_soft_cap_makes_all_scores_equal() -> None:
    layout = make_layout([(1, 9)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 1, 8)
    rule = AttentionRule(scale=1.0, soft_cap=1e-6)
    found = ReferenceAttention().attend(torch.randn(1, 1, 8), cache[0], cache[1], layout, rule)
    torch.testing.assert_close(found[0], cache[1, int(layout.block_tables[0, 0]), :9, 0].mean(dim=0))


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
def test_cells_before_the_window_are_never_seen(name: str) -> None:
    layout = make_layout([(1, 50), (1, 40)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 2, 8)
    queries = torch.randn(2, 4, 8)
    rule = AttentionRule(scale=1.0, window=7)
    clean = backend(name, torch.float32).attend(queries, cache[0], cache[1], layout, rule)
    for row, context in enumerate(layout.context_length_list):
        for position in range(context - 7):
            block = int(layout.block_tables[row, position // BLOCK_SIZE])
            cache[:, block, position % BLOCK_SIZE] = math.nan
    found = backend(name, torch.float32).attend(queries, cache[0], cache[1], layout, rule)
    torch.testing.assert_close(found, clean)


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
def test_cells_behind_the_context_are_never_seen(name: str) -> None:
    layout = make_layout([(1, 5), (1, 40), (3, 20)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 2, 8)
    queries = torch.randn(5, 4, 8)
    clean = backend(name, torch.float32).attend(queries, cache[0], cache[1], layout, PLAIN)
    for row, context in enumerate(layout.context_length_list):
        for position in range(context, layout.block_tables.shape[1] * BLOCK_SIZE):
            block = int(layout.block_tables[row, position // BLOCK_SIZE])
            cache[:, block, position % BLOCK_SIZE] = math.nan
    found = backend(name, torch.float32).attend(queries, cache[0], cache[1], layout, PLAIN)
    torch.testing.assert_close(found, clean)


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
def test_what_is_not_a_number_stays_in_its_sequence_and_is_not_hidden(name: str) -> None:
    layout = make_layout([(1, 20), (1, 20)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 2, 8)
    cache[0, int(layout.block_tables[0, 0]), 3] = math.nan
    found = backend(name, torch.float32).attend(torch.randn(2, 4, 8), cache[0], cache[1], layout, PLAIN)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("name", ["gather", "sdpa", "native"])
def test_large_scores_do_not_overflow(name: str) -> None:
    layout = make_layout([(1, 40)])
    cache = torch.randn(2, layout.block_tables.numel(), BLOCK_SIZE, 1, 8)
    queries = torch.randn(1, 1, 8) * 1e4
    expected = ReferenceAttention().attend(queries, cache[0], cache[1], layout, PLAIN)
    found = backend(name, torch.float32).attend(queries, cache[0], cache[1], layout, PLAIN)
    torch.testing.assert_close(found, expected)
