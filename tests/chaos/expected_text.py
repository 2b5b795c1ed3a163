"""What the null engine must say, worked out from its published rule alone. Imports nothing of the platform.

A token is a hash of every token before it, the choice's seed and its position, so whatever is lost, repeated or
mixed up in the middle of a text changes all that follows it.
"""

import hashlib

_MASK = (1 << 64) - 1
_STEP = 6364136223846793005
_STIR = 0x9E3779B97F4A7C15
_SAYABLE = "the quick brown fox jumps over the lazy dog and runs away; "


def _byte_order() -> list[int]:
    """The bytes in the order of their token ids: by the printable letter that stands for each (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: byte for byte in plain}
    others = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: 256 + index for index, byte in enumerate(others)})
    return sorted(letters, key=lambda byte: letters[byte])


_BYTES = _byte_order()
_TOKEN = {byte: token for token, byte in enumerate(_BYTES)}
_VOCABULARY = sorted({_TOKEN[byte] for byte in _SAYABLE.encode()})


def chat_prompt(content: str) -> str:
    return f"user: {content}\nassistant: "


def seed_of_choice(seed: int, index: int) -> int:
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "big") >> 1


def expected_text(prompt: str, *, seed: int, num_tokens: int) -> str:
    state = 0
    for byte in prompt.encode():
        state = ((state ^ (_TOKEN[byte] + 1)) * _STEP + _STIR) & _MASK
    said = bytearray()
    for position in range(num_tokens):
        mixed = ((state ^ (seed & _MASK)) * _STIR + position * _STEP) & _MASK
        token = _VOCABULARY[(mixed >> 33) % len(_VOCABULARY)]
        state = ((state ^ (token + 1)) * _STEP + _STIR) & _MASK
        said.append(_BYTES[token])
    return said.decode()
