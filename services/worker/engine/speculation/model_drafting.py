"""Drafts that a model writes token by token, for several sequences at once. Knows no cache: a row is a row.

A shadow stands for a sequence while it is drafted: the same blocks, or its own, and tokens that are only guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from services.worker.engine.batch import Draft, ScheduledBatch, ScheduledSequence
from services.worker.engine.sampling.draw import Draw
from services.worker.engine.sampling.sampler import propose, wants_only_the_largest
from services.worker.engine.sequence import Sequence


class ComputesLogits(Protocol):
    def logits(self, batch: ScheduledBatch) -> torch.Tensor:
        """[S, V] float32 behind the last token of each item."""
        ...

    def largest(self, batch: ScheduledBatch) -> torch.Tensor | None:
        """[S] int64: of each item the token of the largest, -1 where they are no numbers; None: ask for `logits`."""
        ...


def shadow_of(sequence: Sequence) -> Sequence:
    """The same sequence with a list of tokens of its own; it shares the block tables themselves."""
    return Sequence(
        request=sequence.request,
        choice=sequence.choice,
        seed=sequence.seed,
        token_ids=list(sequence.token_ids),
        num_prompt_tokens=sequence.num_prompt_tokens,
        max_output_tokens=sequence.max_output_tokens,
        num_computed_tokens=sequence.num_computed_tokens,
        block_tables=sequence.block_tables,
    )


@dataclass(slots=True, kw_only=True)
class Writing:
    """A draft in the making: up to `num_tokens` tokens behind those of `sequence`, written by its `shadow`.

    `shadow.num_computed_tokens` of the shadow's tokens are in the cache that the draft's model sees.
    """

    sequence: Sequence
    shadow: Sequence
    num_tokens: int
    token_ids: list[int] = field(default_factory=list)
    probabilities: list[torch.Tensor | None] = field(default_factory=list)

    def add(self, token_id: int, probabilities: torch.Tensor | None) -> None:
        self.token_ids.append(token_id)
        self.probabilities.append(probabilities)
        self.shadow.token_ids.append(token_id)

    def draft(self) -> Draft:
        known = [one for one in self.probabilities if one is not None]
        is_drawn = bool(known) and len(known) == len(self.token_ids)
        return Draft(token_ids=tuple(self.token_ids), probabilities=torch.stack(known) if is_drawn else None)


def write_drafts(runner: ComputesLogits, writings: list[Writing], *, shares_noise: bool) -> None:
    """One step of the model for each token of the longest draft. Blocks for all tokens but the last are there."""
    while unfinished := [one for one in writings if len(one.token_ids) < one.num_tokens]:
        batch = ScheduledBatch(items=[_rest_of(one.shadow) for one in unfinished])
        draws = [Draw(one.sequence, tuple(one.token_ids)) for one in unfinished]
        chosen, probabilities = _next_tokens(runner, batch, draws, shares_noise=shares_noise)
        for one, token_id, own in zip(unfinished, chosen.tolist(), probabilities, strict=True):
            one.shadow.num_computed_tokens = len(one.shadow.token_ids)
            one.add(token_id, own)


def _next_tokens(
    runner: ComputesLogits, batch: ScheduledBatch, draws: list[Draw], *, shares_noise: bool
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Where nothing but the largest is asked for, logits are never in memory."""
    largest = runner.largest(batch) if wants_only_the_largest(draws) else None
    if largest is not None:
        return largest.clamp(min=0), [None] * len(draws)
    with torch.inference_mode():
        return propose(runner.logits(batch), draws, shares_noise=shares_noise)


def _rest_of(shadow: Sequence) -> ScheduledSequence:
    """What the model has not seen of it."""
    return ScheduledSequence(
        sequence=shadow,
        start=shadow.num_computed_tokens,
        num_tokens=shadow.num_uncomputed_tokens,
        samplers=(shadow,),
        is_decode=shadow.is_decoding,
    )
