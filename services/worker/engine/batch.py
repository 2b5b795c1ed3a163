"""What the scheduler hands to execution for one step: which tokens of which sequences, and which blocks to copy.

Plain values without torch, so that the scheduler can be driven by a test that has no model.
"""

from dataclasses import dataclass, field

from services.worker.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSequence:
    """Compute `num_tokens` tokens from `start`; their blocks are allocated.

    `samplers` each draw a token from the last token's logits: none while a prompt is only partly prefilled, the
    sequence itself otherwise, and at the end of a shared prompt the choices that fork from it, too.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    samplers: tuple[Sequence, ...]
    is_decode: bool


@dataclass(slots=True, kw_only=True)
class ScheduledBatch:
    items: list[ScheduledSequence] = field(default_factory=list)
    block_copies: dict[int, int] = field(default_factory=dict)
    """Destination to source; all sources are read before any destination is written."""
    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
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
