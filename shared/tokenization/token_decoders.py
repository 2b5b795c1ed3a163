"""Two ways from a token to its text: a table of bytes where the tokenizer is byte-level, else a sliding window."""

import codecs
from collections.abc import Sequence
from typing import Protocol

from shared.tokenization.tokenizer import Tokenizer

_NUM_CONTEXT_TOKENS = 5
_MAX_HELD_TOKENS = 8
_REPLACEMENT = "�"


class TokenDecoder(Protocol):
    """Tokens in, text out; a text that is not yet whole characters stays inside."""

    def decode(self, token_id: int) -> str: ...

    def flush(self) -> str:
        """The rest, as a full decode would give it."""


def token_decoder(tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> TokenDecoder:
    if tokenizer.bytes_of is not None:
        return ByteTableDecoder(tokenizer.bytes_of)
    return WindowDecoder(tokenizer, prompt_token_ids)


class ByteTableDecoder:
    """Each token is some bytes, the text their UTF-8: no context is needed."""

    def __init__(self, bytes_of: Sequence[bytes]) -> None:
        self._bytes_of = bytes_of
        self._num_tokens = len(bytes_of)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, token_id: int) -> str:
        """An id past the table is a padding row of the embedding: it has no text."""
        return self._utf8.decode(self._bytes_of[token_id]) if token_id < self._num_tokens else ""

    def flush(self) -> str:
        return self._utf8.decode(b"", True)


class WindowDecoder:
    """Decodes the last few tokens with and without the new one; the difference is its text.

    Tokens may change their text by what stands before them (a space at the beginning is dropped, bytes join to
    characters), hence the tokens of context. Text that ends in U+FFFD waits for more tokens, but not for more than
    a character can have: broken bytes are then said as they are. Source: vLLM, detokenize_incrementally.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt_token_ids[-_NUM_CONTEXT_TOKENS:])
        self._num_context = len(self._window)
        self._context_text = tokenizer.decode(self._window)

    def decode(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        num_held = len(self._window) - self._num_context
        if text.endswith(_REPLACEMENT) and num_held < _MAX_HELD_TOKENS:
            return ""
        if len(text) <= len(self._context_text) and num_held < _MAX_HELD_TOKENS:
            return ""
        return self._accept(text)

    def flush(self) -> str:
        return self._accept(self._tokenizer.decode(self._window))

    def _accept(self, text: str) -> str:
        """What was new is the next token's context."""
        new_text = text[len(self._context_text) :]
        self._window = self._window[self._num_context :]
        self._num_context = len(self._window)
        self._context_text = self._tokenizer.decode(self._window)
        return new_text
