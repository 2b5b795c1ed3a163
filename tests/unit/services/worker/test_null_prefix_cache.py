"""What the null engine pretends to have cached."""

from services.worker.null_prefix_cache import NullPrefixCache


def test_full_blocks_of_a_prefix_are_known_the_second_time() -> None:
    cache = NullPrefixCache(100)
    assert cache.use("t", range(40)) == 0
    assert cache.use("t", range(40)) == 32
    assert cache.use("t", [*range(16), 99, *range(17, 40)]) == 16


def test_a_block_counts_only_after_the_same_blocks() -> None:
    cache = NullPrefixCache(100)
    cache.use("t", [*range(16), *range(16)])
    assert cache.use("t", [*[7] * 16, *range(16)]) == 0


def test_tenants_do_not_share() -> None:
    cache = NullPrefixCache(100)
    cache.use("a", range(32))
    assert cache.use("b", range(32)) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = NullPrefixCache(2)
    first, second, third = ([number] * 16 for number in range(3))
    cache.use("t", first)
    cache.use("t", second)
    cache.use("t", first)
    cache.use("t", third)
    assert (cache.use("t", first), cache.use("t", second)) == (16, 0)


def test_without_blocks_nothing_is_known() -> None:
    cache = NullPrefixCache(0)
    cache.use("t", range(32))
    assert cache.use("t", range(32)) == 0
