"""Names for full blocks of tokens: a hash chain, so that a block's name tells everything before it, too.

Knows tokens and bytes, not where a block lies. BLAKE2 and not Python's hash: a collision would hand one tenant's
keys and values to another.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 16


def chain_start(salt: str) -> bytes:
    """The name before the first block; different salts never meet."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES, person=b"penstock-kv").digest()


def block_hash(previous: bytes, token_ids: Sequence[int]) -> bytes:
    return blake2b(previous + array("q", token_ids).tobytes(), digest_size=HASH_BYTES).digest()
