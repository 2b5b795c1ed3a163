"""Blocks for sequences: growing, forking, copying on write, finding common prefixes, giving everything back.

The bookkeeping of paged attention; the tensors themselves are execution's. Knows no policy: who runs is the
scheduler's business, this class says only whether the blocks are there. A sequence has a block table for each group
of layers; a group with a window gives a block back as soon as no later token can see it.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 4.2-4.4.
"""

from collections import Counter
from collections.abc import Iterable

from services.worker.engine.kv_cache.block_pool import BlockPool, BlocksExhausted
from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.prefix_hash import block_hash, chain_start
from services.worker.engine.sequence import BlockTable, Sequence


class PagedCache:
    def __init__(self, geometry: CacheGeometry, *, num_blocks: int, enable_prefix_cache: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.geometry = geometry
        self._enable_prefix_cache = enable_prefix_cache

    def missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Blocks to take from the pool before the sequence's first `num_tokens` tokens are computed in this step."""
        end = self.geometry.blocks_for(num_tokens)
        tables = sequence.block_tables or self._new_tables()
        return sum(end - table.end + self._writes_into_shared(sequence, table) for table in tables)

    def blocks_to_come(self, sequence: Sequence, prefix: list[BlockTable] | None = None) -> int:
        """Blocks to take until all its tokens are computed, at most: those that its window leaves come back.

        `prefix`: as if a sequence without blocks had these already.
        """
        geometry, num_tokens = self.geometry, sequence.num_tokens
        end = geometry.blocks_for(num_tokens)
        tables = prefix or sequence.block_tables or self._new_tables()
        return sum(
            min(end - table.end, geometry.most_of_group(window, num_tokens) - len(table.block_ids))
            + self._writes_into_shared(sequence, table)
            for window, table in zip(geometry.windows, tables, strict=True)
        )

    def room_behind(self, sequence: Sequence, num_tokens: int, *, num_blocks: int) -> int:
        """Tokens that fit behind the first `num_tokens`, whose blocks are there, with so many blocks more."""
        of_each_group = max(num_blocks, 0) // len(self.geometry.windows)
        end = self.geometry.blocks_for(num_tokens) + of_each_group
        return end * self.geometry.block_size_tokens - num_tokens

    def grow(self, sequence: Sequence, num_tokens: int) -> dict[int, int]:
        """Make the sequence's next tokens, up to `num_tokens`, writable; returns copies, destination to source.

        All or nothing. Raises BlocksExhausted.
        """
        if self.missing_blocks(sequence, num_tokens) > self.pool.num_free:
            raise BlocksExhausted
        sequence.block_tables = sequence.block_tables or self._new_tables()
        copies: dict[int, int] = {}
        for table in sequence.block_tables:
            if self._writes_into_shared(sequence, table):
                index = sequence.num_computed_tokens // self.geometry.block_size_tokens - table.first
                source = table.block_ids[index]
                table.block_ids[index] = self.pool.allocate()
                copies[table.block_ids[index]] = source
                self.pool.release(source)
            for _ in range(self.geometry.blocks_for(num_tokens) - table.end):
                table.block_ids.append(self.pool.allocate())
        return copies

    def _new_tables(self) -> list[BlockTable]:
        return [BlockTable() for _ in self.geometry.windows]

    def _writes_into_shared(self, sequence: Sequence, table: BlockTable) -> bool:
        index, offset = divmod(sequence.num_computed_tokens, self.geometry.block_size_tokens)
        return offset > 0 and index < table.end and self.pool.references(table.block_ids[index - table.first]) > 1

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """The child shares all of the parent's blocks; whoever writes first into the last one copies it."""
        assert not child.block_tables, "a fork starts without blocks"
        self._share(child, parent.block_tables)
        child.block_hashes = list(parent.block_hashes)
        child.num_registered_blocks = parent.num_registered_blocks

    def find_prefix(self, sequence: Sequence) -> list[BlockTable]:
        """Tables for the longest known beginning, empty without one; at least one token stays to compute.

        A group with a window needs only what the next token sees: the blocks before may be long gone.
        """
        if not self._enable_prefix_cache or sequence.needs_whole_prompt:
            return []
        geometry = self.geometry
        found: dict[tuple[int, int], int] = {}
        starts = [0] * len(geometry.windows)  # of each group's unbroken run of known blocks
        num_blocks = 0
        for index in range((sequence.num_tokens - 1) // geometry.block_size_tokens):
            for group in range(len(starts)):
                block_id = self.pool.find(self._name(sequence, index, group))
                if block_id is None:
                    starts[group] = index + 1
                else:
                    found[group, index] = block_id
            if any(start and window is None for start, window in zip(starts, geometry.windows, strict=True)):
                break
            firsts = self._firsts((index + 1) * geometry.block_size_tokens)
            if all(start <= first for start, first in zip(starts, firsts, strict=True)):
                num_blocks = index + 1
        if num_blocks == 0:
            return []
        firsts = self._firsts(num_blocks * geometry.block_size_tokens)
        return [
            BlockTable(first=first, block_ids=[found[group, index] for index in range(first, num_blocks)])
            for group, first in enumerate(firsts)
        ]

    def _firsts(self, num_computed_tokens: int) -> list[int]:
        return [self.geometry.first_kept(window, num_computed_tokens) for window in self.geometry.windows]

    def take_prefix(self, sequence: Sequence, prefix: list[BlockTable]) -> None:
        """What `find_prefix` found for it, before anything else. An empty prefix takes nothing."""
        assert not sequence.block_tables, "a prefix is taken before anything else"
        if prefix:
            self._share(sequence, prefix)
            sequence.num_registered_blocks = prefix[0].end
            sequence.num_computed_tokens = prefix[0].end * self.geometry.block_size_tokens

    def _share(self, sequence: Sequence, tables: list[BlockTable]) -> None:
        sequence.block_tables = [BlockTable(first=table.first, block_ids=list(table.block_ids)) for table in tables]
        for block_id in block_ids_of(tables):
            self.pool.share(block_id)

    def count_free(self, *, without: Iterable[Sequence] = (), keep: Iterable[BlockTable] = ()) -> int:
        """Blocks that could be taken, had the sequences `without` given theirs back; `keep` are spoken for."""
        spoken_for = set(block_ids_of(keep))
        cached = sum(1 for block_id in spoken_for if self.pool.references(block_id) == 0)
        given_back = Counter(block_id for sequence in without for block_id in block_ids_of(sequence.block_tables))
        freed = sum(
            1
            for block_id, references in given_back.items()
            if references == self.pool.references(block_id) and block_id not in spoken_for
        )
        return self.pool.num_free + freed - cached

    def advance(self, sequence: Sequence, num_computed_tokens: int) -> None:
        """So many tokens are in the cache now: full blocks are offered to others, blocks out of sight given back.

        So are blocks behind them, which a draft had needed that was not accepted.
        """
        sequence.num_computed_tokens = num_computed_tokens
        end = self.geometry.blocks_for(num_computed_tokens)
        for table in sequence.block_tables:
            for block_id in table.release_from(end):
                self.pool.release(block_id)
        if self._enable_prefix_cache:
            self._register_full_blocks(sequence)
        for first, table in zip(self._firsts(num_computed_tokens), sequence.block_tables, strict=True):
            for block_id in table.release_before(first):
                self.pool.release(block_id)

    def _register_full_blocks(self, sequence: Sequence) -> None:
        num_full_blocks = sequence.num_computed_tokens // self.geometry.block_size_tokens
        for index in range(sequence.num_registered_blocks, num_full_blocks):
            for group, table in enumerate(sequence.block_tables):
                self.pool.register(table.block_ids[index - table.first], self._name(sequence, index, group))
        sequence.num_registered_blocks = max(num_full_blocks, sequence.num_registered_blocks)

    def free(self, sequence: Sequence) -> None:
        """Give every block back, the last first, so that a prefix outlives what hangs on it."""
        for table in sequence.block_tables:
            for block_id in reversed(table.block_ids):
                self.pool.release(block_id)
        sequence.block_tables = []
        sequence.num_registered_blocks = 0
        sequence.num_computed_tokens = 0

    def forget(self, sequence: Sequence) -> None:
        """Nobody may reuse what this sequence computed, also what it gave back already: it is broken."""
        for index in range(sequence.num_registered_blocks):
            for group in range(len(self.geometry.windows)):
                self.pool.forget(self._name(sequence, index, group))

    def check_integrity(self, holders: Iterable[Sequence]) -> None:
        """Between two steps. Raises AssertionError when a block is leaked, held by more sequences than it counts, or
        held though nobody will look at it."""
        references: Counter[int] = Counter()
        for sequence in holders:
            block_ids = block_ids_of(sequence.block_tables)
            assert len(set(block_ids)) == len(block_ids), "a sequence holds a block twice"
            references.update(block_ids)
            end = self.geometry.blocks_for(sequence.num_computed_tokens)
            held = [(table.first, table.end) for table in sequence.block_tables]
            expected = [(first, end) for first in self._firsts(sequence.num_computed_tokens)]
            assert held == expected, f"blocks {held} are held, {expected} are needed"
        self.pool.check_integrity(references)

    def _name(self, sequence: Sequence, index: int, group: int) -> bytes:
        """Of a full block of the sequence, in one group of layers."""
        hashes, size = sequence.block_hashes, self.geometry.block_size_tokens
        while len(hashes) <= index:
            previous = hashes[-1] if hashes else chain_start(sequence.request.cache_salt)
            start = len(hashes) * size
            hashes.append(block_hash(previous, sequence.token_ids[start : start + size]))
        return hashes[index] + group.to_bytes(2, "little")


def block_ids_of(tables: Iterable[BlockTable]) -> list[int]:
    return [block_id for table in tables for block_id in table.block_ids]
