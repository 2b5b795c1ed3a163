"""Names of blocks: equal for equal histories only."""

from services.worker.engine.kv_cache.prefix_hash import block_hash, chain_start


def test_a_name_depends_on_salt_history_order_and_tokens() -> None:
    start = chain_start("")
    names = {
        block_hash(start, [1, 2]),
        block_hash(start, [2, 1]),
        block_hash(start, [1, 2, 0]),
        block_hash(chain_start("tenant"), [1, 2]),
        block_hash(block_hash(start, [1, 2]), [1, 2]),
    }
    assert len(names) == 5
    assert block_hash(start, [1, 2]) == block_hash(chain_start(""), [1, 2])


def test_any_salt_has_a_name() -> None:
    assert chain_start("\udc80") != chain_start("naïve")
