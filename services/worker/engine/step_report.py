"""Collects what a step has to tell, until it is told. Knows the messages, not what led to them."""

from dataclasses import dataclass, field

from services.worker.engine.batch import SampledToken
from services.worker.engine.events import (
    LogprobEntry,
    RequestRejected,
    RequestTimings,
    StepResult,
    StepStatistics,
    TokensSampled,
)
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

    def add_token(self, token: SampledToken, finish_reason: str | None) -> None:
        """The token is its sequence's newest."""
        sequence = token.sequence
        logprobs = None
        if token.logprob is not None:
            entry = LogprobEntry(
                logprob=token.logprob, top_token_ids=token.top_token_ids, top_logprobs=token.top_logprobs
            )
            logprobs = [entry]
        self.tokens.append(
            TokensSampled(
                request_id=sequence.request.request_id,
                choice=sequence.choice,
                position=sequence.num_output_tokens - 1,
                token_ids=[token.token_id],
                logprobs=logprobs,
                finish_reason=finish_reason,
            )
        )

    def add_end_without_token(self, sequence: Sequence, finish_reason: str) -> None:
        """A resumed choice that had ended before its worker was lost."""
        self.tokens.append(
            TokensSampled(
                request_id=sequence.request.request_id,
                choice=sequence.choice,
                position=sequence.num_output_tokens,
                token_ids=[],
                finish_reason=finish_reason,
            )
        )

    def reject_invalid_logits(self, request_id: str) -> None:
        self.rejected.append(
            RequestRejected(
                request_id=request_id,
                code=EngineFailed.code,
                message="the model computed something that is not a number",
            )
        )

    def take(self, statistics: StepStatistics) -> StepResult:
        result = StepResult(tokens=self.tokens, timings=self.timings, rejected=self.rejected, statistics=statistics)
        self.tokens, self.timings, self.rejected = [], [], []
        return result
