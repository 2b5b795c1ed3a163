"""Block accounting: who holds what, and which cached block goes first."""

import pytest

from services.worker.engine.kv_cache.block_pool import BlockPool, BlocksExhausted


def test_every_block_is_given_out_once_and_then_no_more() -> None:
    pool = BlockPool(3)
    assert {pool.allocate() for _ in range(3)} == {0, 1, 2}
    with pytest.raises(BlocksExhausted):
        pool.allocate()
    pool.check_integrity({0: 1, 1: 1, 2: 1})


def test_a_shared_block_is_free_when_its_last_holder_lets_go() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.share(block)
    pool.release(block)
    assert pool.num_free == 0
    pool.release(block)
    assert (pool.num_free, pool.num_used) == (1, 0)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(block)


def test_a_named_block_is_found_after_its_release_and_taken_back() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.register(block, b"name")
    pool.release(block)
    assert (pool.num_cached, pool.num_free) == (1, 2)
    assert pool.find(b"name") == block
    pool.share(block)
    assert (pool.num_cached, pool.num_used) == (0, 1)
    pool.check_integrity({block: 1})


def test_empty_blocks_go_before_cached_ones_and_the_oldest_cached_first() -> None:
    pool = BlockPool(3)
    old, new, empty = (pool.allocate() for _ in range(3))
    pool.register(old, b"old")
    pool.register(new, b"new")
    for block in (old, new, empty):
        pool.release(block)
    assert [pool.allocate() for _ in range(3)] == [empty, old, new]
    assert pool.find(b"old") is None
    pool.check_integrity({old: 1, new: 1, empty: 1})


def test_the_first_block_of_a_name_stays_the_one_that_is_found() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.register(first, b"name")
    pool.register(second, b"name")
    pool.register(first, b"other")
    assert pool.find(b"name") == first
    assert pool.find(b"other") is None
    pool.release(second)
    assert pool.num_cached == 0


def test_a_forgotten_block_is_not_found_and_is_empty_once_released() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.register(block, b"name")
    pool.forget(b"name")
    assert pool.find(b"name") is None
    pool.release(block)
    assert pool.num_cached == 0
    pool.check_integrity({})


def test_a_forgotten_block_that_was_only_cached_is_empty_at_once() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.register(block, b"name")
    pool.release(block)
    pool.forget(b"name")
    pool.forget(b"never known")
    assert (pool.num_cached, pool.num_free, pool.find(b"name")) == (0, 1, None)
    pool.check_integrity({})


@pytest.mark.parametrize("references", [{}, {0: 2}, {0: 1, 1: 1}])
def test_the_check_notices_leaks_and_double_holders(references: dict[int, int]) -> None:
    pool = BlockPool(2)
    assert pool.allocate() == 0
    with pytest.raises(AssertionError, match="references"):
        pool.check_integrity(references)


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        BlockPool(0)
