"""Blocks that tokens take, with windows: held against counting them one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.engine.kv_cache.cache_geometry import CacheGeometry

SIZES = st.sampled_from([1, 2, 4, 16])


@given(size=SIZES, window=st.integers(1, 70), computed=st.integers(0, 300))
def test_the_first_kept_block_is_the_first_that_the_next_token_sees(size: int, window: int, computed: int) -> None:
    geometry = CacheGeometry(block_size_tokens=size, max_step_tokens=1, windows=(window,))
    seen = [position for position in range(computed + 1) if computed - position < window]
    assert geometry.first_kept(window, computed) == seen[0] // size
    assert geometry.first_kept(None, computed) == 0


@given(size=SIZES, window=st.none() | st.integers(1, 70), steps=st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_no_way_to_compute_a_sequence_holds_more_than_the_most(size: int, window: int | None, steps: list[int]) -> None:
    geometry = CacheGeometry(block_size_tokens=size, max_step_tokens=9, windows=(window,))
    computed, most = 0, geometry.most_blocks(sum(steps))
    for step in steps:
        held = geometry.blocks_for(computed + step) - geometry.first_kept(window, computed)
        assert held <= most
        computed += step


def test_the_most_is_reached() -> None:
    geometry = CacheGeometry(block_size_tokens=4, max_step_tokens=3, windows=(6,))
    held = [geometry.blocks_for(computed + 3) - geometry.first_kept(6, computed) for computed in range(40)]
    assert max(held) == geometry.most_blocks(100) == 3


def test_groups_add_up_and_short_sequences_take_what_they_are() -> None:
    geometry = CacheGeometry(block_size_tokens=16, max_step_tokens=512, windows=(None, 1024, 1024))
    assert geometry.most_blocks(16) == 3
    assert geometry.most_blocks(100_000) == 6250 + 2 * 97


@given(size=SIZES, num_blocks=st.integers(1, 200), limit=st.integers(1, 500), window=st.none() | st.integers(1, 60))
def test_the_longest_sequence_fits_and_one_token_more_does_not(
    size: int, num_blocks: int, limit: int, window: int | None
) -> None:
    geometry = CacheGeometry(block_size_tokens=size, max_step_tokens=8, windows=(None, window))
    longest = geometry.longest_sequence(num_blocks, limit_tokens=limit)
    assert 0 <= longest <= limit
    assert longest == 0 or geometry.most_blocks(longest) <= num_blocks
    assert longest == limit or geometry.most_blocks(longest + 1) > num_blocks


@pytest.mark.parametrize(("window", "sequences", "tokens"), [(None, 3, 100 * 16), (4096, 5, 5 * 8192)])
def test_what_a_cache_holds_is_told_for_the_longest_sequences(window: int | None, sequences: int, tokens: int) -> None:
    num_blocks, longest = (100, 500) if window is None else (1_500, 8_192)
    geometry = CacheGeometry(block_size_tokens=16, max_step_tokens=512, windows=(window,))
    assert geometry.num_full_sequences(num_blocks, max_model_tokens=longest) == sequences
    assert geometry.capacity_tokens(num_blocks, max_model_tokens=longest) == tokens
