"""GPT-2's byte-level alphabet: every byte has a printable character, so a token's bytes can be tabulated.

Source: OpenAI's GPT-2 encoder.py, bytes_to_unicode; undone as Hugging Face's ByteLevel decoder does it.
"""

from collections.abc import Mapping, Set
from typing import Any

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def _alphabet() -> dict[str, int]:
    others = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
    characters = {chr(byte): byte for byte in _PRINTABLE}
    return characters | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _alphabet()


def token_bytes(token: str) -> bytes:
    """A token with a character outside the alphabet was added as plain text: it stands for itself."""
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:
        return token.encode("utf-8")


def is_byte_level(definition: Mapping[str, Any]) -> bool:
    """Whether decoding, by a tokenizer.json's content, is only joining the tokens' bytes."""
    decoder = definition.get("decoder") or {}
    parts = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    return len(parts) == 1 and parts[0].get("type") == "ByteLevel"


def byte_table(vocabulary: Mapping[str, int], skipped: Set[int]) -> list[bytes]:
    """Bytes by token id; nothing for the ids in `skipped` and for holes in the numbering."""
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        if token_id not in skipped:
            table[token_id] = token_bytes(token)
    return table
