"""One choice while it runs: its tokens, its text, and what of both the ledger has. No I/O, no clock.

Text is a pure function of the tokens, so a choice is rebuilt from the log by replaying its tokens; what the log's
chunks said is what counts as sent. Without stop strings tokens are detokenized when a flush asks for a chunk, with
them one by one as they come, so that the token that completes a stop string is found whatever the flush borders.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.worker.engine.events import LogprobEntry
from shared.contracts.errors import InvariantViolated
from shared.contracts.events import ChoiceResult, Chunk, FinishReason, TokenLogprob


class Detokenizer(Protocol):
    """Tokens in, text out; `shared.tokenization`. Called on the event loop, a few tokens at a time."""

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text; tokens after the one that completed it are ignored."""
        ...

    def push(self, token_ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """The prompt that a choice's text begins with."""

    text: str
    token_ids: Sequence[int]


class RunningChoice:
    """Grows by `accept`, is read by `next_chunk`."""

    def __init__(
        self,
        index: int,
        *,
        new_detokenizer: Callable[[], Detokenizer],
        token_text: Callable[[int], str],
        has_stop_strings: bool,
        wants_logprobs: bool,
        echo: Echo | None = None,
    ) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self._echo = echo
        self._prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self.text = "" if echo is None else echo.text
        self.finish_reason: FinishReason | None = None
        self._logprobs: list[TokenLogprob] | None = [] if wants_logprobs else None
        self._new_detokenizer = new_detokenizer
        self._token_text = token_text
        self._has_stop_strings = has_stop_strings
        self._detokenizer = new_detokenizer()
        self._num_pushed_tokens = 0
        self._num_sent_tokens = 0
        self._num_sent_characters = 0
        self._is_finish_sent = False

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def has_news(self) -> bool:
        return self._num_sent_tokens < len(self.token_ids) or (self.is_finished and not self._is_finish_sent)

    def resume(self, chunks: Sequence[Chunk]) -> None:
        """Take over what the log has of this choice, in order. Raises `InvariantViolated` on a contradiction."""
        logged_text = ""
        for chunk in chunks:
            if chunk.position != len(self.token_ids):
                raise InvariantViolated(
                    f"choice {self.index}: the log goes on at {chunk.position}, not {len(self.token_ids)}"
                )
            self.token_ids.extend(chunk.token_ids)
            logged_text += chunk.text
            if self._logprobs is not None:
                self._logprobs.extend(chunk.logprobs or ())
            self._prompt_logprobs = self._prompt_logprobs or chunk.prompt_logprobs
            if chunk.finish_reason is not None:
                self.finish_reason = chunk.finish_reason
        self._num_sent_tokens = len(self.token_ids)
        self._num_sent_characters = len(logged_text)
        self._is_finish_sent = self.is_finished
        self._detokenize()
        if self.text[: len(logged_text)] != logged_text[: len(self.text)]:
            raise InvariantViolated(f"choice {self.index}: the logged text is not that of its tokens")
        if self.is_finished:
            self.text = logged_text
        elif self._detokenizer.stopped is not None:
            self._finish(FinishReason.STOP)

    def finish_if_at_end(self, *, max_tokens: int, end_token_ids: frozenset[int]) -> None:
        """After `resume`: a choice whose last token ended it is not run again, whether or not the log says so."""
        if self.is_finished or not self.token_ids:
            return
        if self.token_ids[-1] in end_token_ids:
            self._finish(FinishReason.STOP)
        elif len(self.token_ids) >= max_tokens:
            self._finish(FinishReason.LENGTH)

    def accept(
        self,
        position: int,
        token_ids: Sequence[int],
        logprobs: Sequence[LogprobEntry] | None,
        finish_reason: str | None,
        prompt_logprobs: Sequence[LogprobEntry] | None = None,
    ) -> bool:
        """New tokens from the engine. True when a stop string ended the choice here: the engine must be told."""
        if self.is_finished:
            return False
        if position != len(self.token_ids):
            raise InvariantViolated(
                f"choice {self.index}: the engine is at token {position}, not {len(self.token_ids)}"
            )
        if prompt_logprobs is not None and self._prompt_logprobs is None and self._echo is not None:
            self._prompt_logprobs = self._scored_prompt(self._echo, prompt_logprobs)
        if self._logprobs is not None and logprobs is not None:
            self._logprobs.extend(map(self._token_logprob, token_ids, logprobs))
        if not self._has_stop_strings:
            self.token_ids.extend(token_ids)
        elif self._accept_until_stop(token_ids):
            return finish_reason is None
        if finish_reason is not None:
            self._finish(FinishReason(finish_reason))
        return False

    def _accept_until_stop(self, token_ids: Sequence[int]) -> bool:
        for token_id in token_ids:
            self.token_ids.append(token_id)
            self._detokenize()
            if self._detokenizer.stopped is not None:
                self._finish(FinishReason.STOP)
                return True
        return False

    def _finish(self, reason: FinishReason) -> None:
        self._detokenize()
        self.text += self._detokenizer.finish()
        self.finish_reason = reason if self._detokenizer.stopped is None else FinishReason.STOP
        if self._logprobs is not None:
            del self._logprobs[len(self.token_ids) :]

    def _detokenize(self) -> None:
        new = self.token_ids[self._num_pushed_tokens :]
        if new:
            self.text += self._detokenizer.push(new)
            self._num_pushed_tokens = len(self.token_ids)

    def _token_logprob(self, token_id: int, entry: LogprobEntry) -> TokenLogprob:
        text = self._token_text
        return TokenLogprob(
            token_id=token_id,
            text=text(token_id),
            logprob=entry.logprob,
            top=tuple(
                (top_id, text(top_id), logprob)
                for top_id, logprob in zip(entry.top_token_ids, entry.top_logprobs, strict=True)
            ),
        )

    def _scored_prompt(self, echo: Echo, entries: Sequence[LogprobEntry]) -> tuple[TokenLogprob, ...]:
        first, *others = echo.token_ids
        start = TokenLogprob(token_id=first, text=self._token_text(first), logprob=None)
        return (start, *map(self._token_logprob, others, entries))

    def next_chunk(self) -> Chunk | None:
        """What the log does not have yet; counted as sent from now on. `refill` takes that back."""
        if not self.has_news:
            return None
        self._detokenize()
        start = self._num_sent_tokens
        chunk = Chunk(
            choice=self.index,
            position=start,
            token_ids=tuple(self.token_ids[start:]),
            text=self.text[self._num_sent_characters :],
            logprobs=None if self._logprobs is None else tuple(self._logprobs[start:]),
            finish_reason=self.finish_reason,
            prompt_logprobs=None if start else self._prompt_logprobs,
        )
        self._num_sent_tokens = len(self.token_ids)
        self._num_sent_characters = max(self._num_sent_characters, len(self.text))
        self._is_finish_sent = self.is_finished
        return chunk

    def refill(self, position: int) -> None:
        """The log ends at `position`: send again from there. The text before it is that of the tokens before it."""
        if position > len(self.token_ids):
            raise InvariantViolated(f"choice {self.index}: the log is ahead, at {position}")
        replayed = self._new_detokenizer()
        echoed = "" if self._echo is None else self._echo.text
        text = echoed + replayed.push(self.token_ids[:position]) if position else ""
        self._num_sent_tokens = position
        self._num_sent_characters = len(text)
        self._is_finish_sent = False

    def result(self) -> ChoiceResult:
        self._detokenize()
        return ChoiceResult(
            index=self.index,
            text=self.text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            prompt_logprobs=self._prompt_logprobs,
        )
