"""Growing, forking, copying on write and prefix reuse of sequences' blocks."""

import pytest

from services.worker.engine.kv_cache.block_pool import BlocksExhausted
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.sequence import Sequence
from tests.engine_driver import make_sequence


def make_cache(num_blocks: int = 8, *, enable_prefix_cache: bool = True) -> PagedCache:
    return PagedCache(num_blocks=num_blocks, block_size_tokens=4, enable_prefix_cache=enable_prefix_cache)


def compute(cache: PagedCache, sequence: Sequence, num_tokens: int) -> dict[int, int]:
    copies = cache.grow(sequence, num_tokens)
    sequence.num_computed_tokens = num_tokens
    cache.register_computed(sequence)
    return copies


def test_a_sequence_holds_as_many_blocks_as_its_tokens_need() -> None:
    cache, sequence = make_cache(), make_sequence(list(range(9)))
    assert compute(cache, sequence, 4) == {}
    assert len(sequence.block_ids) == 1
    compute(cache, sequence, 9)
    assert len(sequence.block_ids) == 3
    cache.free(sequence)
    assert cache.pool.num_used == 0
    cache.check_integrity([])


def test_growing_is_all_or_nothing() -> None:
    cache, sequence = make_cache(2), make_sequence(list(range(12)))
    with pytest.raises(BlocksExhausted):
        cache.grow(sequence, 12)
    assert sequence.block_ids == []
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
    assert copies == {parent.block_ids[1]: child.block_ids[1]}
    assert parent.block_ids[0] == child.block_ids[0]
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
    assert parent.block_ids[2] != child.block_ids[2]


def test_full_blocks_of_an_equal_beginning_are_found_and_one_token_is_always_left() -> None:
    cache, first = make_cache(), make_sequence(list(range(8)))
    compute(cache, first, 8)
    assert cache.find_prefix(make_sequence(list(range(8)))) == first.block_ids[:1]
    longer = make_sequence([*range(8), 99, 98])
    assert cache.find_prefix(longer) == first.block_ids
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
    beginning = first.block_ids[0]
    cache.free(first)
    cache.pool.allocate()
    assert cache.find_prefix(make_sequence(list(range(9)))) == [beginning]


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
