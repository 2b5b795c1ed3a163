"""Which prompts the null engine would have in its KV cache: hashes of block chains, least recently used first out.

Counts only; no tensor anywhere. The real engine's cache is `engine/kv_cache/`.
"""

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_TOKENS = 16


class NullPrefixCache:
    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def use(self, salt: str, token_ids: Sequence[int]) -> int:
        """How many tokens of this prompt were known; now all of its full blocks are."""
        if not self._num_blocks:
            return 0
        chain, known, is_prefix = hash(salt), 0, True
        for start in range(0, len(token_ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            chain = hash((chain, *token_ids[start : start + BLOCK_TOKENS]))
            is_prefix = is_prefix and chain in self._blocks
            known += BLOCK_TOKENS * is_prefix
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > self._num_blocks:
            self._blocks.popitem(last=False)
        return known
