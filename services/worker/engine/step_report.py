"""Collects what a step has to tell, until it is told. Knows the messages, not what led to them."""

from dataclasses import dataclass, field
from itertools import takewhile

from services.worker.engine.batch import SampledToken
from services.worker.engine.events import (
    LogprobEntry,
    RequestRejected,
    RequestTimings,
    StepResult,
    StepStatistics,
    TokensSampled,
)
from services.worker.engine.grammar.compilations import grammar_rejection
from services.worker.engine.sequence import Sequence
from shared.contracts.errors import EngineFailed


@dataclass(slots=True)
class StepReport:
    tokens: list[TokensSampled] = field(default_factory=list)
    timings: list[RequestTimings] = field(default_factory=list)
    rejected: list[RequestRejected] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.tokens or self.timings or self.rejected)

    def add_tokens(self, tokens: list[SampledToken], finish_reason: str | None, draft: tuple[int, ...] = ()) -> None:
        """They are their sequence's newest; the last of them is what the target chose behind the draft's others."""
        sequence = tokens[0].sequence
        token_ids = [token.token_id for token in tokens]
        self.tokens.append(
            TokensSampled(
                request_id=sequence.request.request_id,
                choice=sequence.choice,
                position=sequence.num_output_tokens - len(tokens),
                token_ids=token_ids,
                logprobs=_logprobs(tokens),
                finish_reason=finish_reason,
                prompt_logprobs=_untold_prompt_logprobs(sequence),
                draft_token_ids=list(draft) or None,
                num_accepted=num_equal(token_ids, draft) if draft else 0,
            )
        )

    def add_end_without_token(self, sequence: Sequence, finish_reason: str) -> None:
        """A resumed choice that had ended before its worker was lost, or one that only scores its prompt."""
        self.tokens.append(
            TokensSampled(
                request_id=sequence.request.request_id,
                choice=sequence.choice,
                position=0 if sequence.only_scores else sequence.num_output_tokens,
                token_ids=[],
                finish_reason=finish_reason,
                prompt_logprobs=_untold_prompt_logprobs(sequence),
            )
        )

    def take(self, statistics: StepStatistics) -> StepResult:
        result = StepResult(tokens=self.tokens, timings=self.timings, rejected=self.rejected, statistics=statistics)
        self.tokens, self.timings, self.rejected = [], [], []
        return result


def num_equal(token_ids: list[int], draft: tuple[int, ...]) -> int:
    """How many of a draft's tokens became output."""
    pairs = zip(token_ids, draft, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _logprobs(tokens: list[SampledToken]) -> list[LogprobEntry] | None:
    """Whether they were asked for is the same for all of them."""
    if tokens[0].logprob is None:
        return None
    return [
        LogprobEntry(logprob=token.logprob or 0.0, top_token_ids=token.top_token_ids, top_logprobs=token.top_logprobs)
        for token in tokens
    ]


def _untold_prompt_logprobs(sequence: Sequence) -> list[LogprobEntry] | None:
    """Once for each choice, and only when all are known."""
    scores = sequence.prompt_logprobs
    if scores is None or sequence.has_told_prompt_logprobs or sequence.needs_whole_prompt:
        return None
    sequence.has_told_prompt_logprobs = True
    return [entry for entry in scores if entry is not None]


def reason_to_fail(token: SampledToken) -> RequestRejected | None:
    """Why the request of this token cannot go on; None when it can."""
    sequence = token.sequence
    request_id = sequence.request.request_id
    if not token.is_valid:
        message = "the model computed something that is not a number"
        return RequestRejected(request_id=request_id, code=EngineFailed.code, message=message)
    if sequence.constraint is not None and sequence.constraint.problem is not None:
        return grammar_rejection(request_id, sequence.constraint.field, sequence.constraint.problem)
    return None
