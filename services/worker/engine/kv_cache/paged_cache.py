"""Blocks for sequences: growing, forking, copying on write, finding common prefixes, giving everything back.

The bookkeeping of paged attention; the tensors themselves are execution's. Knows no policy: who runs is the
scheduler's business, this class says only whether the blocks are there.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 4.2-4.4.
"""

from collections import Counter
from collections.abc import Iterable

from services.worker.engine.kv_cache.block_pool import BlockPool, BlocksExhausted
from services.worker.engine.kv_cache.prefix_hash import block_hash, chain_start
from services.worker.engine.sequence import Sequence


class PagedCache:
    def __init__(self, *, num_blocks: int, block_size_tokens: int, enable_prefix_cache: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size_tokens = block_size_tokens
        self._enable_prefix_cache = enable_prefix_cache

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size_tokens)

    def missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks to take from the pool before the sequence's first `num_tokens` tokens are computed."""
        missing = self.blocks_for(num_tokens) - len(sequence.block_ids)
        return missing + 1 if self._writes_into_shared(sequence) else missing

    def grow(self, sequence: Sequence, num_tokens: int) -> dict[int, int]:
        """Make the sequence's next tokens, up to `num_tokens`, writable; returns copies, destination to source.

        All or nothing. Raises BlocksExhausted.
        """
        if self.missing_blocks(sequence, num_tokens) > self.pool.num_free:
            raise BlocksExhausted
        copies: dict[int, int] = {}
        if self._writes_into_shared(sequence):
            index = sequence.num_computed_tokens // self.block_size_tokens
            source = sequence.block_ids[index]
            sequence.block_ids[index] = self.pool.allocate()
            copies[sequence.block_ids[index]] = source
            self.pool.release(source)
        for _ in range(self.blocks_for(num_tokens) - len(sequence.block_ids)):
            sequence.block_ids.append(self.pool.allocate())
        return copies

    def _writes_into_shared(self, sequence: Sequence) -> bool:
        index, offset = divmod(sequence.num_computed_tokens, self.block_size_tokens)
        return offset > 0 and index < len(sequence.block_ids) and self.pool.references(sequence.block_ids[index]) > 1

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """The child shares all of the parent's blocks; whoever writes first into the last one copies it."""
        assert not child.block_ids, "a fork starts without blocks"
        for block_id in parent.block_ids:
            self.pool.share(block_id)
        child.block_ids = list(parent.block_ids)
        child.block_hashes = list(parent.block_hashes)
        child.num_registered_blocks = parent.num_registered_blocks

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks with the sequence's first tokens, longest chain there is; at least one token stays to compute."""
        if not self._enable_prefix_cache or sequence.needs_whole_prompt:
            return []
        found: list[int] = []
        for index in range((sequence.num_tokens - 1) // self.block_size_tokens):
            block_id = self.pool.find(self._hash(sequence, index))
            if block_id is None:
                break
            found.append(block_id)
        return found

    def take_prefix(self, sequence: Sequence, block_ids: list[int]) -> None:
        assert not sequence.block_ids, "a prefix is taken before anything else"
        for block_id in block_ids:
            self.pool.share(block_id)
        sequence.block_ids = list(block_ids)
        sequence.num_registered_blocks = len(block_ids)
        sequence.num_computed_tokens = len(block_ids) * self.block_size_tokens

    def count_free(self, *, without: Iterable[Sequence] = (), keep: Iterable[int] = ()) -> int:
        """Blocks that could be taken, had the sequences `without` given theirs back; `keep` are spoken for."""
        spoken_for = set(keep)
        cached = sum(1 for block_id in spoken_for if self.pool.references(block_id) == 0)
        given_back = Counter(block_id for sequence in without for block_id in sequence.block_ids)
        freed = sum(
            1
            for block_id, references in given_back.items()
            if references == self.pool.references(block_id) and block_id not in spoken_for
        )
        return self.pool.num_free + freed - cached

    def register_computed(self, sequence: Sequence) -> None:
        """Offer the blocks that are full now to later requests with the same beginning."""
        if not self._enable_prefix_cache:
            return
        num_full_blocks = sequence.num_computed_tokens // self.block_size_tokens
        for index in range(sequence.num_registered_blocks, num_full_blocks):
            self.pool.register(sequence.block_ids[index], self._hash(sequence, index))
        sequence.num_registered_blocks = max(num_full_blocks, sequence.num_registered_blocks)

    def free(self, sequence: Sequence) -> None:
        """Give every block back, the last first, so that a prefix outlives what hangs on it."""
        for block_id in reversed(sequence.block_ids):
            self.pool.release(block_id)
        sequence.block_ids = []
        sequence.num_registered_blocks = 0
        sequence.num_computed_tokens = 0

    def forget(self, sequence: Sequence) -> None:
        """Nobody may reuse what this sequence computed: it is broken."""
        for block_id in sequence.block_ids:
            self.pool.forget(block_id)

    def check_integrity(self, holders: Iterable[Sequence]) -> None:
        """Raises AssertionError when a block is leaked, or held by more sequences than it counts."""
        references: Counter[int] = Counter()
        for sequence in holders:
            assert len(set(sequence.block_ids)) == len(sequence.block_ids), "a sequence holds a block twice"
            references.update(sequence.block_ids)
        self.pool.check_integrity(references)

    def _hash(self, sequence: Sequence, index: int) -> bytes:
        hashes, size = sequence.block_hashes, self.block_size_tokens
        while len(hashes) <= index:
            previous = hashes[-1] if hashes else chain_start(sequence.request.cache_salt)
            start = len(hashes) * size
            hashes.append(block_hash(previous, sequence.token_ids[start : start + size]))
        return hashes[index]
