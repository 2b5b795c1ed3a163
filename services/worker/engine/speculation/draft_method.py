"""What proposes tokens: the protocol of every kind of draft, from a look at the text to a model of its own.

A draft is a guess and costs time when it is wrong, nothing else: the verifier makes the output the target's. So nothing
here has to be exact, only deterministic where the coupled verifier is to keep its promise about speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.execution.model_loading import LoadedModel
from services.worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTask:
    """Guess what follows `sequence.token_ids`, up to `num_tokens` tokens.

    The sequence's block tables reach over its tokens and `num_tokens` more, each position's slot its own to write:
    what lies there from `sequence.num_computed_tokens` on is overwritten by the verification. All tokens but the
    newest are in the target's cache.
    """

    sequence: Sequence
    num_tokens: int


class DraftMethod(Protocol):
    """All from the engine's thread, between two of the target's steps; may block as long as a draft is worth."""

    name: str

    def propose(self, tasks: list[DraftTask]) -> list[Draft]:
        """A draft for every task, empty where there is nothing to guess. Raises nothing."""
        ...

    def judged(self, verdicts: list[Verdict]) -> None:
        """What became of the latest drafts; the sequences have their new tokens. Not told of those that ended.

        `Verdict.target_token_ids` are what the target chose at every row. What heads on the target's own states would
        need (Medusa, EAGLE) goes into the verdict, too: the rows' hidden states.
        """
        ...

    def forget(self, sequence: Sequence) -> None:
        """It ended (`state`), or was preempted and comes back with other blocks. Called for unknown ones, too."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftContext:
    """What a method is built from. `model` is the target, with its runner, its cache's geometry and its limits.

    `shares_noise`: drafts draw with the target's noise (the coupled verifier), so they need no probabilities.
    `checkpoint`: the target's directory; `draft_checkpoint`: that of a smaller model, if there is one.
    """

    model: LoadedModel
    checkpoint: Path
    draft_checkpoint: Path | None
    shares_noise: bool
    max_running_sequences: int
    max_tokens_per_step: int
    max_draft_tokens: int
    shared_text_tokens: int
