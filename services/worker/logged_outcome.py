"""The outcome of a request that does not run here: from the ledger's verdict, its log and the record alone. Pure.

The same values whoever renders them: a verdict's bytes must not depend on which worker asked.
"""

from services.worker.running_request import Ending, cancelled, expired, failed
from services.worker.work import Work
from shared.contracts.errors import PlatformError, WorkerLost
from shared.contracts.events import ChoiceResult, Chunk, InferenceOutcome, Usage
from shared.contracts.requests import RequestKind
from shared.ledger.records import Ended, Verdict
from shared.openai.outcomes import outcome_error


def verdict_ending(claim: Ended) -> tuple[Ending, PlatformError | None]:
    if claim.verdict is Verdict.CANCELLED:
        return cancelled(claim.reason), None
    if claim.verdict is Verdict.EXPIRED:
        return expired(), None
    if claim.verdict is Verdict.INCOMPATIBLE:
        return failed(WorkerLost(f"it cannot go on: it was {claim.reason}")), None
    error = WorkerLost(f"given up: the workers that ran this request were {claim.reason}")
    return failed(error), error


def outcome_from_log(work: Work, ending: Ending, chunks: list[Chunk] | tuple[Chunk, ...]) -> InferenceOutcome:
    """The terminal of a request that does not run here: what the log has, and how it ended."""
    by_choice: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_choice.setdefault(chunk.choice, []).append(chunk)
    choices = tuple(_logged_choice(index, by_choice[index]) for index in sorted(by_choice))
    request = work.request
    return InferenceOutcome(
        request_id=work.request_id,
        outcome=ending.outcome,
        kind=request.kind if request is not None else work.envelope.kind or RequestKind.CHAT,
        model=work.model,
        created_seconds=work.created_seconds,
        choices=choices,
        usage=Usage(
            prompt_tokens=work.num_prompt_tokens,
            completion_tokens=sum(len(choice.token_ids) for choice in choices),
        ),
        error=outcome_error(ending.error),
        return_token_ids=request is not None and request.return_token_ids,
        wants_logprobs=request is not None and request.sampling.logprobs is not None,
    )


def _logged_choice(index: int, chunks: list[Chunk]) -> ChoiceResult:
    logprobs = tuple(entry for chunk in chunks for entry in chunk.logprobs or ())
    return ChoiceResult(
        index=index,
        text="".join(chunk.text for chunk in chunks),
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        finish_reason=chunks[-1].finish_reason,
        logprobs=logprobs or None,
    )
