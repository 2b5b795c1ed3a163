"""Who holds which block: reference counts, the free list, and the blocks kept for their contents.

A block is *used* (references > 0), *cached* (no references, but its contents have a name and may be reused) or
*empty*. Cached blocks are given away last, least recently used first. Knows no sequences and no torch.
"""

from collections import OrderedDict


class BlocksExhausted(Exception):
    """No block is free: the scheduler preempts somebody."""


class BlockPool:
    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a cache needs at least one block, not {num_blocks}")
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def references(self, block_id: int) -> int:
        return self._references[block_id]

    def allocate(self) -> int:
        """An own block with one reference; its old contents lose their name. Raises BlocksExhausted."""
        if self._empty:
            block_id = self._empty.pop()
        elif self._cached:
            block_id, _ = self._cached.popitem(last=False)
            del self._block_of[self._hash_of.pop(block_id)]
        else:
            raise BlocksExhausted
        self._references[block_id] = 1
        return block_id

    def share(self, block_id: int) -> None:
        """One more reference, also for a block that was only cached."""
        if self._references[block_id] == 0:
            del self._cached[block_id]
        self._references[block_id] += 1

    def release(self, block_id: int) -> None:
        references = self._references[block_id]
        assert references > 0, f"block {block_id} released more often than taken"
        self._references[block_id] = references - 1
        if references > 1:
            return
        if block_id in self._hash_of:
            self._cached[block_id] = None
        else:
            self._empty.append(block_id)

    def find(self, name: bytes) -> int | None:
        return self._block_of.get(name)

    def register(self, block_id: int, name: bytes) -> None:
        """Remember a full block's contents. The first block of a name stays the one that is found."""
        if name in self._block_of or block_id in self._hash_of:
            return
        self._block_of[name] = block_id
        self._hash_of[block_id] = name

    def forget(self, name: bytes) -> None:
        """The contents of this name are not to be found again."""
        block_id = self._block_of.pop(name, None)
        if block_id is None:
            return
        del self._hash_of[block_id]
        if self._references[block_id] == 0:
            del self._cached[block_id]
            self._empty.append(block_id)

    def check_integrity(self, expected_references: dict[int, int]) -> None:
        """Every block is used, cached or empty, exactly once, with the references its holders account for."""
        empty, cached = set(self._empty), set(self._cached)
        assert len(empty) == len(self._empty), "a block is twice in the free list"
        assert not empty & cached, "a block is both empty and cached"
        for block_id, references in enumerate(self._references):
            expected = expected_references.get(block_id, 0)
            assert references == expected, f"block {block_id}: {references} references, {expected} holders"
            is_free = block_id in empty or block_id in cached
            assert is_free == (references == 0), f"block {block_id}: {references} references, free: {is_free}"
        assert cached <= self._hash_of.keys(), "a cached block has no name"
        assert not empty & self._hash_of.keys(), "an empty block has a name"
        assert self._block_of == {name: block for block, name in self._hash_of.items()}, "names disagree"
