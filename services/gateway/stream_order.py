"""Puts the chunks of one request into an unbroken order, whatever way they came. Pure.

Live chunks may be missing, repeated or early; the log is complete but cut at its own borders, which may differ from
those a client was served with (another worker wrote it again after Redis lost its data). So what is missing is
computed by concatenation, never by matching chunks: Chunk's promise is that text and tokens concatenate.
"""

import array
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from shared.contracts.events import Chunk, FinishReason, TokenLogprob


@dataclass(slots=True)
class _Delivered:
    """What a client has of one choice. `digest` is a CRC of its token ids, in order."""

    num_tokens: int = 0
    num_characters: int = 0
    digest: int = 0
    is_finished: bool = False


class StreamPosition(NamedTuple):
    """How far one choice was delivered; what an SSE `id:` says and `Last-Event-ID` brings back.

    A tuple, not a dataclass: one is made for every chunk of every stream.
    """

    choice: int
    num_tokens: int
    num_characters: int
    digest: int
    is_finished: bool = False


class ContradictingLog(Exception):
    """The log does not begin with what the client was given: going on would contradict it."""


class StreamOrder:
    """The delivered prefix of every choice. `next_live` and `missing` advance it."""

    def __init__(self, num_choices: int, positions: Iterable[StreamPosition] = ()) -> None:
        self._choices = [_Delivered() for _ in range(num_choices)]
        for position in positions:
            if 0 <= position.choice < num_choices:
                self._choices[position.choice] = _Delivered(
                    position.num_tokens, position.num_characters, position.digest, position.is_finished
                )

    @property
    def is_complete(self) -> bool:
        """Every choice's finish reason has been delivered."""
        return all(choice.is_finished for choice in self._choices)

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    def position(self, index: int) -> StreamPosition:
        choice = self._choices[index]
        return StreamPosition(index, choice.num_tokens, choice.num_characters, choice.digest, choice.is_finished)

    def positions(self) -> list[StreamPosition]:
        return [self.position(index) for index in range(len(self._choices))]

    def is_next(self, chunk: Chunk) -> bool | None:
        """True: deliver it. False: the client has it. None: only the log can tell (a gap, other borders)."""
        if not 0 <= chunk.choice < len(self._choices):
            return False
        delivered = self._choices[chunk.choice]
        if delivered.is_finished:
            return False
        if chunk.position == delivered.num_tokens and (chunk.token_ids or chunk.finish_reason is not None):
            return True
        ends_at = chunk.position + len(chunk.token_ids)
        if chunk.token_ids and ends_at <= delivered.num_tokens and chunk.finish_reason is None:
            return False
        return None

    def delivered(self, chunk: Chunk) -> StreamPosition:
        """Mark it delivered; where its choice is now."""
        choice = self._choices[chunk.choice]
        if chunk.token_ids:
            choice.num_tokens += len(chunk.token_ids)
            choice.digest = _digest(chunk.token_ids, choice.digest)
        choice.num_characters += len(chunk.text)
        choice.is_finished = chunk.finish_reason is not None
        return StreamPosition(chunk.choice, choice.num_tokens, choice.num_characters, choice.digest, choice.is_finished)

    def missing(self, log: Iterable[Chunk]) -> list[Chunk]:
        """What the log has beyond the delivered, at most one chunk a choice; marks it delivered.

        Raises `ContradictingLog` when the log's tokens under the delivered prefix are others.
        """
        found: list[Chunk] = []
        by_choice: dict[int, list[Chunk]] = {}
        for chunk in log:
            by_choice.setdefault(chunk.choice, []).append(chunk)
        for index in sorted(by_choice):
            rest = self._rest(index, by_choice[index]) if 0 <= index < len(self._choices) else None
            if rest is not None:
                self.delivered(rest)
                found.append(rest)
        return found

    def missing_text(self, index: int, text: str, finish_reason: FinishReason) -> Chunk | None:
        """The tail of a choice from its sealed result, when its log is gone. Tokens are not in a result."""
        delivered = self._choices[index]
        if delivered.is_finished:
            return None
        chunk = Chunk(
            choice=index,
            position=delivered.num_tokens,
            token_ids=(),
            text=text[delivered.num_characters :],
            finish_reason=finish_reason,
        )
        self.delivered(chunk)
        return chunk

    def _rest(self, index: int, log: list[Chunk]) -> Chunk | None:
        delivered = self._choices[index]
        if delivered.is_finished:
            return None
        whole = _concatenated(index, log)
        if len(whole.token_ids) < delivered.num_tokens:
            return None  # a log that is being rebuilt: wait until it has caught up
        if _digest(whole.token_ids[: delivered.num_tokens], 0) != delivered.digest:
            raise ContradictingLog
        text = whole.text[delivered.num_characters :]
        token_ids = whole.token_ids[delivered.num_tokens :]
        if not (text or token_ids or whole.finish_reason):
            return None
        return Chunk(
            choice=index,
            position=delivered.num_tokens,
            token_ids=token_ids,
            text=text,
            logprobs=None if whole.logprobs is None else whole.logprobs[delivered.num_tokens :],
            finish_reason=whole.finish_reason,
            prompt_logprobs=None if delivered.num_tokens else whole.prompt_logprobs,
        )


def delivered_prefix(log: Iterable[Chunk], position: StreamPosition) -> Chunk:
    """What a client at `position` has of its choice, as one chunk without an end."""
    whole = _concatenated(position.choice, [chunk for chunk in log if chunk.choice == position.choice])
    return Chunk(
        choice=position.choice,
        position=0,
        token_ids=whole.token_ids[: position.num_tokens],
        text=whole.text[: position.num_characters],
        logprobs=None if whole.logprobs is None else whole.logprobs[: position.num_tokens],
        prompt_logprobs=whole.prompt_logprobs,
    )


def _concatenated(index: int, log: list[Chunk]) -> Chunk:
    token_ids: list[int] = []
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    finish_reason: FinishReason | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    for chunk in sorted(log, key=lambda chunk: chunk.position):
        if chunk.position != len(token_ids):
            break
        token_ids.extend(chunk.token_ids)
        texts.append(chunk.text)
        logprobs.extend(chunk.logprobs or ())
        prompt_logprobs = prompt_logprobs or chunk.prompt_logprobs
        finish_reason = chunk.finish_reason or finish_reason
    return Chunk(
        choice=index,
        position=0,
        token_ids=tuple(token_ids),
        text="".join(texts),
        logprobs=tuple(logprobs) if len(logprobs) == len(token_ids) and logprobs else None,
        finish_reason=finish_reason,
        prompt_logprobs=prompt_logprobs,
    )


def _digest(token_ids: tuple[int, ...], before: int) -> int:
    return zlib.crc32(array.array("Q", token_ids).tobytes(), before)
