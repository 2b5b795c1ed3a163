"""Growing, forking, copying on write and prefix reuse of sequences' blocks."""

import pytest

from services.worker.engine.kv_cache.block_pool import BlocksExhausted
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.sequence import BlockTable, Sequence
from tests.engine_driver import make_sequence


def make_cache(
    num_blocks: int = 8, *, enable_prefix_cache: bool = True, windows: tuple[int | None, ...] = (None,)
) -> PagedCache:
    geometry = CacheGeometry(block_size_tokens=4, max_step_tokens=8, windows=windows)
    return PagedCache(geometry, num_blocks=num_blocks, enable_prefix_cache=enable_prefix_cache)


def blocks(sequence: Sequence, group: int = 0) -> list[int]:
    return sequence.block_tables[group].block_ids


def compute(cache: PagedCache, sequence: Sequence, num_tokens: int) -> dict[int, int]:
    copies = cache.grow(sequence, num_tokens)
    cache.advance(sequence, num_tokens)
    return copies


def test_a_sequence_holds_as_many_blocks_as_its_tokens_need() -> None:
    cache, sequence = make_cache(), make_sequence(list(range(9)))
    assert compute(cache, sequence, 4) == {}
    assert len(blocks(sequence)) == 1
    compute(cache, sequence, 9)
    assert len(blocks(sequence)) == 3
    cache.free(sequence)
    assert cache.pool.num_used == 0
    cache.check_integrity([])


def test_growing_is_all_or_nothing() -> None:
    cache, sequence = make_cache(2), make_sequence(list(range(12)))
    with pytest.raises(BlocksExhausted):
        cache.grow(sequence, 12)
    assert sequence.block_tables == []
    assert cache.pool.num_free == 2


def test_a_fork_copies_the_partly_filled_block_when_it_writes_and_the_last_holder_does_not() -> None:
    cache = make_cache()
    parent, child = make_sequence(list(range(6))), make_sequence(list(range(6)))
    compute(cache, parent, 6)
    cache.fork(parent, child)
    child.num_computed_tokens = 6
    cache.check_integrity([parent, child])
    assert cache.missing_blocks(parent, 7) == 1
    copies = cache.grow(parent, 7)
    assert copies == {blocks(parent)[1]: blocks(child)[1]}
    assert blocks(parent)[0] == blocks(child)[0]
    assert cache.grow(child, 7) == {}
    cache.check_integrity([parent, child])


def test_a_fork_at_a_block_border_copies_nothing() -> None:
    cache = make_cache()
    parent, child = make_sequence(list(range(8))), make_sequence(list(range(8)))
    compute(cache, parent, 8)
    cache.fork(parent, child)
    child.num_computed_tokens = 8
    assert cache.grow(parent, 9) == {}
    assert cache.grow(child, 9) == {}
    assert blocks(parent)[2] != blocks(child)[2]


def test_full_blocks_of_an_equal_beginning_are_found_and_one_token_is_always_left() -> None:
    cache, first = make_cache(), make_sequence(list(range(8)))
    compute(cache, first, 8)
    assert cache.find_prefix(make_sequence(list(range(8)))) == [BlockTable(block_ids=blocks(first)[:1])]
    longer = make_sequence([*range(8), 99, 98])
    assert cache.find_prefix(longer) == [BlockTable(block_ids=blocks(first))]
    cache.take_prefix(longer, cache.find_prefix(longer))
    assert longer.num_computed_tokens == 8
    cache.check_integrity([first, longer])


def test_a_block_is_found_only_behind_the_same_beginning() -> None:
    cache, first = make_cache(), make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])
    compute(cache, first, 9)
    assert cache.find_prefix(make_sequence([0, 2, 3, 4, 5, 6, 7, 8, 9])) == []


def test_salts_and_the_switch_keep_prefixes_apart() -> None:
    cache, first = make_cache(), make_sequence(list(range(9)), salt="a")
    compute(cache, first, 9)
    assert cache.find_prefix(make_sequence(list(range(9)), salt="b")) == []
    off, second = make_cache(enable_prefix_cache=False), make_sequence(list(range(9)))
    compute(off, second, 9)
    assert off.find_prefix(make_sequence(list(range(9)))) == []


def test_the_end_of_a_freed_sequence_is_given_away_before_its_beginning() -> None:
    cache, first = make_cache(2), make_sequence(list(range(8)))
    compute(cache, first, 8)
    beginning = blocks(first)[0]
    cache.free(first)
    cache.pool.allocate()
    assert cache.find_prefix(make_sequence(list(range(9)))) == [BlockTable(block_ids=[beginning])]


def test_the_check_notices_a_block_that_nobody_holds() -> None:
    cache, sequence = make_cache(), make_sequence(list(range(4)))
    cache.grow(sequence, 4)
    with pytest.raises(AssertionError, match="references"):
        cache.check_integrity([])


def test_free_blocks_are_counted_as_if_some_had_left_and_others_were_taken() -> None:
    cache = make_cache(8)
    parent, child, other = (make_sequence(list(range(10))) for _ in range(3))
    compute(cache, parent, 10)
    cache.fork(parent, child)
    assert cache.count_free(without=[parent]) == 5, "the child still holds them"
    assert cache.count_free(without=[parent, child]) == 8
    assert cache.count_free(without=[parent, child], keep=cache.find_prefix(other)) == 6
    cache.free(parent)
    cache.free(child)
    assert cache.count_free(keep=cache.find_prefix(other)) == 6


def test_a_block_that_the_window_has_left_is_given_back_and_one_that_it_touches_is_not() -> None:
    cache, sequence = make_cache(windows=(5,)), make_sequence(list(range(20)))
    held = []
    for num_tokens in range(1, 15):
        compute(cache, sequence, num_tokens)
        held.append((sequence.block_tables[0].first, sequence.block_tables[0].end))
        cache.check_integrity([sequence])
    assert held[3:9] == [(0, 1), (0, 2), (0, 2), (0, 2), (1, 2), (1, 3)], "the token at 8 sees 4 to 8"
    assert held[-1] == (2, 4)


def test_groups_that_see_everything_keep_everything_beside_those_that_slide() -> None:
    cache, sequence = make_cache(16, windows=(None, 5, 5)), make_sequence(list(range(20)))
    compute(cache, sequence, 8)
    compute(cache, sequence, 16)
    assert [(table.first, table.end) for table in sequence.block_tables] == [(0, 4), (3, 4), (3, 4)]
    assert cache.pool.num_used == 6
    cache.check_integrity([sequence])


def test_a_prefix_needs_the_whole_chain_where_all_is_seen_and_only_the_window_where_it_slides() -> None:
    cache, first = make_cache(40, windows=(None, 5)), make_sequence(list(range(16)))
    compute(cache, first, 8)
    compute(cache, first, 16)
    kept, slid = first.block_tables
    prefix = cache.find_prefix(make_sequence([*range(16), 99]))
    assert prefix == [kept, slid]
    assert (prefix[1].first, prefix[1].end) == (3, 4)


def test_a_prefix_whose_window_was_overwritten_is_no_prefix_and_a_shorter_one_may_be() -> None:
    cache, first = make_cache(5, windows=(5,)), make_sequence(list(range(16)))
    for num_tokens in range(4, 17, 4):
        compute(cache, first, num_tokens)
    cache.free(first)
    longer = make_sequence([*range(16), 99])
    assert [(table.first, table.end) for table in cache.find_prefix(longer)] == [(3, 4)]
    taken = [cache.pool.allocate() for _ in range(2)]
    assert [(table.first, table.end) for table in cache.find_prefix(longer)] == [(3, 4)], "block 0 is behind it"
    taken += [cache.pool.allocate() for _ in range(2)]
    assert cache.find_prefix(longer)[0].end == 4, "reversed: the last block outlives those before"
    cache.pool.allocate()
    assert cache.find_prefix(longer) == []


def test_what_comes_back_to_a_shorter_prefix_after_the_longer_one_is_gone() -> None:
    """Two chats behind the same beginning: the second's beginning is served by blocks that the first has left."""
    cache, first = make_cache(12, windows=(5,)), make_sequence(list(range(16)))
    for num_tokens in range(4, 17, 4):
        compute(cache, first, num_tokens)
    other = make_sequence([*range(8), 70, 71, 72, 73, 74])
    prefix = cache.find_prefix(other)
    assert [(table.first, table.end) for table in prefix] == [(1, 2)]
    cache.take_prefix(other, prefix)
    assert other.num_computed_tokens == 8
    cache.check_integrity([first, other])
    compute(cache, other, 13)
    cache.check_integrity([first, other])


def test_forks_share_the_window_and_copy_the_last_block_of_every_group() -> None:
    cache = make_cache(20, windows=(None, 5))
    parent, child = make_sequence(list(range(14))), make_sequence(list(range(14)))
    compute(cache, parent, 8)
    compute(cache, parent, 14)
    cache.fork(parent, child)
    cache.advance(child, 14)
    cache.check_integrity([parent, child])
    assert cache.missing_blocks(child, 15) == 2
    copies = cache.grow(child, 15)
    assert copies == {blocks(child, 0)[-1]: blocks(parent, 0)[-1], blocks(child, 1)[-1]: blocks(parent, 1)[-1]}
    cache.advance(child, 15)
    cache.check_integrity([parent, child])


def test_a_broken_sequence_is_forgotten_with_the_blocks_it_has_left() -> None:
    cache, broken = make_cache(windows=(5,)), make_sequence(list(range(16)))
    for num_tokens in range(4, 17, 4):
        compute(cache, broken, num_tokens)
    assert cache.find_prefix(make_sequence([*range(8), 99])) != []
    cache.forget(broken)
    assert cache.find_prefix(make_sequence([*range(8), 99])) == []
    assert cache.pool.num_cached == 0
    cache.check_integrity([broken])


def test_what_is_still_to_come_is_bounded_by_the_window() -> None:
    cache, sequence = make_cache(100, windows=(None, 5)), make_sequence(list(range(100)))
    assert cache.blocks_to_come(sequence) == 25 + 4
    compute(cache, sequence, 8)
    assert cache.blocks_to_come(sequence) == 23 + 3


def test_the_check_notices_a_block_that_no_layer_sees_any_more() -> None:
    cache, sequence = make_cache(windows=(5,)), make_sequence(list(range(16)))
    compute(cache, sequence, 4)
    cache.grow(sequence, 12)
    sequence.num_computed_tokens = 12
    with pytest.raises(AssertionError, match="are needed"):
        cache.check_integrity([sequence])
