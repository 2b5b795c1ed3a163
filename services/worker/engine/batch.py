"""What the scheduler hands to execution for one step: which tokens of which sequences, and which blocks to copy.

Plain values without torch, so that the scheduler can be driven by a test that has no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Tokens that may come next, to be verified in this step.

    `probabilities`, a tensor [len(token_ids), V] float32: what each was drawn from, the ones before it given. None:
    they were not drawn by chance, or with the noise that the target draws with.
    """

    token_ids: tuple[int, ...]
    probabilities: Any = None

    @property
    def length(self) -> int:
        return len(self.token_ids)


NO_DRAFT = Draft(token_ids=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSequence:
    """Compute `num_tokens` tokens from `start`; their blocks are allocated.

    `samplers` each draw a token from the last token's logits: none while a prompt is only partly prefilled, the
    sequence itself otherwise, and at the end of a shared prompt the choices that fork from it, too. Blocks for
    `draft_room` tokens more are there; the `draft` that fills some of it is computed behind the tokens.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samplers: tuple[Sequence, ...]
    is_decode: bool
    draft_room: int = 0
    draft: Draft = NO_DRAFT

    @property
    def num_rows(self) -> int:
        return self.num_tokens + self.draft.length


@dataclass(slots=True, kw_only=True)
class ScheduledBatch:
    items: list[ScheduledSequence] = field(default_factory=list)
    block_copies: dict[int, int] = field(default_factory=dict)
    """Destination to source; all sources are read before any destination is written."""
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
    num_draft_places: int = 0
    """Of all items together: what drafts may take of the step's budget."""
    preempted: list[Sequence] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.num_prefill_tokens + self.num_decode_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledToken:
    """What a sampler drew; `top_*` are the raw model's best tokens when log probabilities were asked for."""

    sequence: Sequence
    token_id: int
    logprob: float | None = None
    top_token_ids: list[int] = field(default_factory=list)
    top_logprobs: list[float] = field(default_factory=list)
    is_valid: bool = True
    """False when the logits were not numbers: the request fails, the batch goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a draft: its first `num_accepted` tokens stand, the target's own follows.

    `target_token_ids`: the target's choice behind each of the draft's tokens, the first behind none of them; those
    after the first that differs follow tokens that were not accepted.
    """

    sequence: Sequence
    draft: Draft
    num_accepted: int
    target_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """`tokens` of a sequence in turn: as many as its draft got accepted, and one."""

    tokens: list[SampledToken]
    verdicts: list[Verdict]
