"""One token to be drawn: for whom, and behind which tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.worker.engine.sequence import Sequence
from shared.contracts.sampling import SamplingParameters


@dataclass(frozen=True, slots=True)
class Draw:
    """Behind a sequence's tokens and those of a draft, if they stand.

    `candidate`: the draft's next token, to be accepted with a probability or replaced (`residual.py`); it was drawn
    from `candidate_probabilities` [V], without chance where that is None.
    """

    sequence: Sequence
    drafted: tuple[int, ...] = ()
    candidate: int | None = None
    candidate_probabilities: torch.Tensor | None = None

    @property
    def sampling(self) -> SamplingParameters:
        return self.sequence.request.sampling

    @property
    def position(self) -> int:
        """Of the token among the outputs."""
        return self.sequence.num_output_tokens + len(self.drafted)

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.token_ids, *self.drafted] if self.drafted else self.sequence.token_ids

    @property
    def output_token_ids(self) -> list[int]:
        return [*self.sequence.output_token_ids, *self.drafted]
