"""The Triton attention against the obvious one: in the interpreter on a CPU, compiled where there is a card."""

import itertools
import math
import random

import pytest
import torch

from services.worker.engine.attention.triton_attention import TritonAttention
from services.worker.engine.triton_kernels.paged_decode import choose_splits, paged_decode
from services.worker.engine.triton_kernels.paged_prefill import paged_prefill
from tests.attention_cases import TOLERANCES, AttentionCase, assert_equals_reference, make_case

MIXED = [(7, 100), (1, 33), (20, 20), (1, 5), (2, 18)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "block_size", "window", "soft_cap"),
    [
        (4, 4, 64, 16, None, None),
        (9, 3, 64, 16, 5, None),
        (8, 1, 80, 8, None, 3.0),
        (6, 2, 128, 32, 33, 3.0),
        (2, 2, 6, 4, 1, None),
    ],
)
def test_a_mixed_step_equals_the_reference(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_size: int,
    block_size: int,
    window: int | None,
    soft_cap: float | None,
) -> None:
    case = make_case(
        MIXED,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
        dtype=dtype,
        window=window,
        soft_cap=soft_cap,
    )
    assert_equals_reference(TritonAttention(), case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("head_size", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (14, 2), (8, 1), (17, 1)])
@pytest.mark.parametrize("lengths", [[(1, 1)], [(1, 16), (1, 17), (1, 300)], [(40, 40)], [(65, 130), (3, 64)], MIXED])
def test_every_shape_equals_the_reference(
    dtype: torch.dtype, head_size: int, heads: int, kv_heads: int, lengths: list[tuple[int, int]]
) -> None:
    """Three of the 24 rules and block sizes for each shape, others for the next."""
    rules = list(itertools.product([4, 16, 256], [None, 1, 16, 70], [None, 2.0]))
    draw = random.Random(f"{dtype} {head_size} {heads} {lengths}")
    for block_size, window, soft_cap in draw.sample(rules, 3):
        case = make_case(
            lengths,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            block_size=block_size,
            dtype=dtype,
            window=window,
            soft_cap=soft_cap,
        )
        assert_equals_reference(TritonAttention(), case)


def decode(case: AttentionCase, num_splits: int) -> torch.Tensor:
    layout, rule = case.layout, case.rule
    return paged_decode(
        case.queries,
        case.cache[0],
        case.cache[1],
        layout.block_tables,
        layout.context_lengths,
        scale=rule.scale,
        window=rule.window,
        soft_cap=rule.soft_cap,
        num_splits=num_splits,
        tile_tokens=16,
    )


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("num_splits", [2, 3, 7])
def test_splits_combine_to_what_one_pass_finds(num_splits: int, window: int | None) -> None:
    case = make_case([(1, 1), (1, 17), (1, 113)], window=window)
    torch.testing.assert_close(decode(case, num_splits), decode(case, 1), atol=1e-6, rtol=1e-6)


def test_a_row_of_padding_gives_zeros_and_leaves_its_neighbours_alone() -> None:
    case = make_case([(1, 33), (1, 50)])
    clean = decode(case, 2)
    case.layout.context_lengths[1] = 0
    found = decode(case, 2)
    assert torch.equal(found[0], clean[0])
    assert found[1].abs().max() == 0


@pytest.mark.parametrize("num_splits", [1, 3])
def test_cells_outside_of_what_is_visible_are_never_read(num_splits: int) -> None:
    case = make_case([(1, 5), (1, 90)], window=37)
    clean = decode(case, num_splits)
    for row, context in enumerate(case.layout.context_length_list):
        for position in range(case.layout.block_tables.shape[1] * 16):
            if position >= context or position < context - 37:
                case.cache[:, int(case.layout.block_tables[row, position // 16]), position % 16] = math.nan
    assert torch.equal(decode(case, num_splits), clean)


def test_what_is_not_a_number_stays_in_its_sequence_and_is_not_hidden() -> None:
    case = make_case([(1, 20), (1, 20), (5, 20), (4, 20)])
    for row in (0, 2):
        case.cache[0, int(case.layout.block_tables[row, 0]), 3] = math.nan
    found = case.attend(TritonAttention())
    assert [bool(rows.isnan().any()) for rows in found.split([1, 1, 5, 4])] == [True, False, True, False]
    assert found[0].isnan().all()


def test_large_scores_do_not_overflow() -> None:
    case = make_case([(1, 40), (6, 40)], scale=1e4)
    assert_equals_reference(TritonAttention(), case)


@pytest.mark.parametrize(("tile_queries", "tile_tokens"), [(16, 16), (16, 64), (32, 16)])
def test_prefill_is_the_same_with_tiles_of_any_size(tile_queries: int, tile_tokens: int) -> None:
    case = make_case([(37, 90), (5, 5)], window=21)
    layout, output = case.layout, torch.full_like(case.queries, math.nan)
    paged_prefill(
        case.queries,
        case.cache[0],
        case.cache[1],
        layout.block_tables,
        layout.context_lengths,
        layout.query_starts,
        output,
        longest_chunk=37,
        scale=case.rule.scale,
        window=case.rule.window,
        soft_cap=None,
        tile_queries=tile_queries,
        tile_tokens=tile_tokens,
    )
    torch.testing.assert_close(output.flatten(1), case.attend(TritonAttention()), atol=1e-5, rtol=1e-5)


def test_a_cache_that_is_a_view_of_a_larger_one_is_read_by_its_strides() -> None:
    case = make_case([(1, 33), (6, 20)])
    wide = torch.randn(2, *case.cache.shape[1:-1], 2 * case.cache.shape[-1])
    wide[..., : case.cache.shape[-1]] = case.cache
    view = AttentionCase(
        queries=case.queries, cache=wide[..., : case.cache.shape[-1]], layout=case.layout, rule=case.rule
    )
    assert torch.equal(view.attend(TritonAttention()), case.attend(TritonAttention()))


@pytest.mark.parametrize(
    ("num_programs", "capacity_tokens", "expected"),
    [(1, 100_000, 32), (8, 100_000, 32), (64, 100_000, 5), (400, 100_000, 1), (1, 600, 2), (1, 10, 1)],
)
def test_splits_fill_the_card_but_are_worth_their_combination(
    num_programs: int, capacity_tokens: int, expected: int
) -> None:
    assert choose_splits(num_programs, capacity_tokens, num_processors=132) == expected
