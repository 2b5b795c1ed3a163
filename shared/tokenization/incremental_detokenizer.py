"""Turns output tokens into text as they come, without ever taking a character back.

What has been pushed decides what has been said: the text is a pure function of the token sequence, whatever the
borders between pushes, so that a worker that takes a stream over rebuilds its state by pushing the logged tokens.
Constant work per token. Knows nothing of requests; not for several threads at once.
"""

from collections.abc import Iterable, Sequence

from shared.tokenization.stop_strings import StopStrings
from shared.tokenization.token_decoders import TokenDecoder, token_decoder
from shared.tokenization.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """One choice's text. `push` and `finish` return what is new; joined, that is the choice's whole text.

    `stopped` is the stop string that ended the text (the text is cut before it), None while there is none.
    `num_tokens` counts the tokens that were used, the one that completed the stop string included; later ones are
    ignored.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), prompt_token_ids: Sequence[int] = ()) -> None:
        self._decoder: TokenDecoder = token_decoder(tokenizer, prompt_token_ids)
        self._stop = StopStrings(stop) if stop else None
        self._is_finished = False
        self.num_tokens = 0

    @property
    def stopped(self) -> str | None:
        return None if self._stop is None else self._stop.matched

    def push(self, token_ids: Iterable[int]) -> str:
        """New text; a part of a character and what may begin a stop string are held back."""
        assert not self._is_finished, "push after finish"
        decode = self._decoder.decode
        stop = self._stop
        if stop is None:
            pieces = [decode(token_id) for token_id in token_ids]
            self.num_tokens += len(pieces)
            return "".join(pieces)
        pieces = []
        for token_id in token_ids:
            if stop.matched is not None:
                break
            self.num_tokens += 1
            piece = decode(token_id)
            if piece:
                pieces.append(stop.push(piece))
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back. An unfinished character becomes U+FFFD, as in a full decode. Once, at the end."""
        assert not self._is_finished, "finish twice"
        self._is_finished = True
        if self._stop is None:
            return self._decoder.flush()
        if self._stop.matched is not None:
            return ""
        return self._stop.push(self._decoder.flush()) + self._stop.flush()


class NoTextDetokenizer:
    """For a model without a tokenizer: its tokens have no text, so nothing is ever held back or stopped."""

    @property
    def stopped(self) -> None:
        return None

    def push(self, token_ids: Iterable[int]) -> str:
        return ""

    def finish(self) -> str:
        return ""
