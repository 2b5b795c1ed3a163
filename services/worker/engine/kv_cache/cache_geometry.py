"""How many blocks tokens take, and from where on a layer still looks: the arithmetic of a paged cache with windows.

A sequence has one block table for each group of layers (`layer_groups.py`); `windows` says how far each group sees,
None being everything. Numbers only: no blocks, no sequences, no torch.
"""

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGeometry:
    """`max_step_tokens`: a sequence gets at most so many tokens in one step, and its window stays beside them."""

    block_size_tokens: int
    max_step_tokens: int
    windows: tuple[int | None, ...] = (None,)

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks of one group that so many tokens reach into."""
        return -(-num_tokens // self.block_size_tokens)

    def first_kept(self, window: int | None, num_computed_tokens: int) -> int:
        """The first block that the next token, or a later one, can see."""
        return 0 if window is None else max(0, num_computed_tokens - window + 1) // self.block_size_tokens

    def most_of_group(self, window: int | None, num_tokens: int) -> int:
        """Blocks that a sequence of this length holds at once in one group, at most, whatever its steps."""
        blocks = self.blocks_for(num_tokens)
        if window is None:
            return blocks
        span = window - 1 + self.max_step_tokens
        return min(blocks, (span + self.block_size_tokens - 2) // self.block_size_tokens + 1)

    def most_blocks(self, num_tokens: int) -> int:
        """The same over all groups: with these to itself a sequence of this length can be computed."""
        return sum(self.most_of_group(window, num_tokens) for window in self.windows)

    def longest_sequence(self, num_blocks: int, *, limit_tokens: int) -> int:
        """Tokens of the longest sequence, not above the limit, that can be computed in so many blocks."""
        return bisect_right(range(1, limit_tokens + 1), num_blocks, key=self.most_blocks)

    def num_full_sequences(self, num_blocks: int, *, max_model_tokens: int) -> int:
        """Sequences of the longest length that fit at once; others share what is left."""
        return num_blocks // self.most_blocks(max_model_tokens)

    def capacity_tokens(self, num_blocks: int, *, max_model_tokens: int) -> int:
        """Tokens of context in the cache when it is full of short sequences, or of the longest, whichever is more."""
        short = num_blocks // len(self.windows) * self.block_size_tokens
        full = self.num_full_sequences(num_blocks, max_model_tokens=max_model_tokens)
        return max(short, full * max_model_tokens)
