"""One choice of one request while the engine works on it: its tokens, its blocks, how far it is.

The engine's only long-lived mutable state. Knows no torch, no scheduler policy and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from services.worker.engine.events import LogprobEntry
from shared.contracts.sampling import SamplingParameters

OrderKey = tuple[tuple[int, int, int, int], int, int]
"""((lane, priority, deadline, time asked), arrival here, choice), the smallest first."""


class SequenceState(Enum):
    FOLLOWING = auto()
    """Waits for a sibling to prefill their common prompt, then forks from it."""
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


class TokenConstraint(Protocol):
    """Which tokens may come next; implemented by `grammar/`. Called by the engine's thread; nothing raises."""

    @property
    def field(self) -> str:
        """What the caller called the grammar."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the choice cannot go on; then nothing else is of use."""
        ...

    @property
    def is_finished(self) -> bool:
        """The output is complete: nothing may follow."""
        ...

    def count_allowed(self, token_ids: Iterable[int]) -> int:
        """How many of these may follow, one behind the other; changes nothing."""
        ...

    def begin_mask(self, draft: Iterable[int] = ()) -> None:
        """Start computing the next mask, and those behind each of a draft's tokens. Returns at once."""
        ...

    def mask(self, index: int = 0) -> bytes | None:
        """Behind `index` tokens of the draft: one bit per token, lowest first. Waits for it, within bounds.

        None: there is a problem, or nothing may follow those tokens.
        """
        ...

    def advance(self, token_ids: list[int]) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class RequestProgress:
    """What the choices of one request share."""

    request_id: str
    sampling: SamplingParameters
    order: tuple[int, int, int, int]
    cache_salt: str
    ending_token_ids: frozenset[int]
    """Tokens that end a choice with "stop": the model's end tokens unless ignored, and the caller's."""
    submitted_ns: int
    scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    cached_prompt_tokens: int = 0
    num_preemptions: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    predicted_token_ids: list[int] = field(default_factory=list)
    """What the caller expects as output: a draft of its own."""
    sequences: dict[int, Sequence] = field(default_factory=dict)
    """Choices that have not ended, by their index."""


@dataclass(slots=True, kw_only=True)
class Drafting:
    """How a sequence speculates, and how that went; `acceptance` is what to expect of the next draft's tokens."""

    method: str
    acceptance: float
    num_drafted: int = 0
    num_accepted: int = 0
    num_steps_without: int = 0


@dataclass(slots=True, kw_only=True)
class BlockTable:
    """A sequence's blocks in one group of layers: those from the `first` on; the ones before are given back."""

    first: int = 0
    block_ids: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """One more than the last block's index."""
        return self.first + len(self.block_ids)

    def release_from(self, end: int) -> list[int]:
        """Take the blocks from `end` on off, the last first; the caller gives them back."""
        if end >= self.end:
            return []
        released = self.block_ids[max(end - self.first, 0) :]
        del self.block_ids[len(self.block_ids) - len(released) :]
        return released[::-1]

    def release_before(self, first: int) -> list[int]:
        """Take the blocks before `first` off; the caller gives them back."""
        if first <= self.first:
            return []
        released = self.block_ids[: first - self.first]
        del self.block_ids[: len(released)]
        self.first += len(released)
        return released


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """`token_ids` is prompt and output in one list; `num_computed_tokens` of them have their keys in the cache."""

    request: RequestProgress
    choice: int
    seed: int
    token_ids: list[int]
    num_prompt_tokens: int
    max_output_tokens: int
    arrival: int = 0
    state: SequenceState = SequenceState.WAITING
    num_computed_tokens: int = 0
    block_tables: list[BlockTable] = field(default_factory=list)
    """One for each group of layers; none before it runs."""
    block_hashes: list[bytes] = field(default_factory=list)
    """Hash chain over the full blocks of `token_ids`, as far as computed; survives a preemption."""
    num_registered_blocks: int = 0
    """Leading blocks already offered to the prefix cache."""
    followers: list[Sequence] = field(default_factory=list)
    constraint: TokenConstraint | None = None
    drafting: Drafting | None = None
    """None: its tokens come one by one."""
    prompt_logprobs: list[LogprobEntry | None] | None = None
    """Of the prompt's tokens from the second on, shared by choices of one prompt; None when not asked for."""
    has_told_prompt_logprobs: bool = False

    @property
    def needs_whole_prompt(self) -> bool:
        """Its prompt is still to be scored: what another request left in the cache has no scores."""
        return self.prompt_logprobs is not None and None in self.prompt_logprobs

    @property
    def only_scores(self) -> bool:
        """It runs for its prompt's scores: what is drawn at the prompt's end is nobody's token."""
        return self.max_output_tokens == 0 and self.prompt_logprobs is not None

    @property
    def order_key(self) -> OrderKey:
        return self.request.order, self.arrival, self.choice

    @property
    def lane(self) -> int:
        return self.request.order[0]

    @property
    def tenant(self) -> str:
        return self.request.cache_salt

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_decoding(self) -> bool:
        """Only its newest token is to be computed."""
        return self.num_computed_tokens == len(self.token_ids) - 1

    @property
    def num_outstanding_tokens(self) -> int:
        """Tokens still to be computed if it runs to its limit."""
        return self.num_prompt_tokens + self.max_output_tokens - self.num_computed_tokens

    def take(self, token_id: int) -> str | None:
        """One more token of output; returns why it was the last, or None."""
        self.token_ids.append(token_id)
        if self.constraint is not None:
            self.constraint.advance([token_id])
        return self.finish_reason()

    def finish_reason(self) -> str | None:
        """Why it has ended with its newest token: `stop`, `length`, or None when it goes on."""
        num_output_tokens = self.num_output_tokens
        if self.max_output_tokens == 0:
            return "length"
        if (
            num_output_tokens > 0
            and num_output_tokens > self.request.sampling.min_tokens
            and self.token_ids[-1] in self.request.ending_token_ids
        ):
            return "stop"
        if self.constraint is not None and self.constraint.is_finished:
            return "stop"
        if num_output_tokens >= self.max_output_tokens:
            return "length"
        return None
