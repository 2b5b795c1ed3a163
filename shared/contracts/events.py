"""What comes back: chunks while a request runs, one terminal outcome at its end. Values only."""

from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Coordinates, RequestKind, WireFormat
from shared.contracts.tools import ToolCall


class Outcome(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD_LETTERED = "dead-lettered"


class FinishReason(StrEnum):
    """Why one choice ended, in OpenAI's words; CANCELLED and FAILED never reach a completed result."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """A stop whose text was tool calls; never in the ledger's log, which keeps the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token's natural log-probability and the best alternatives, best first. None: the first of a prompt."""

    token_id: int
    text: str
    logprob: float | None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one flush adds to one choice.

    `position` is the index of the first of `token_ids` among the choice's output tokens. Text may lag behind
    the tokens (a stop string or a character cut in two is held back), so a chunk may have tokens and no text or,
    at the end, text and no tokens. Chunks of one choice, in order of position, concatenate to its output.
    """

    choice: int
    position: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """On a choice's first chunk, when the prompt is echoed with log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    """Of drafts, since the request was last taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """An error as the caller sees it: OpenAI's four fields. `code` is the code of a class in `errors.py`."""

    message: str
    type: str
    code: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceResult:
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOutcome:
    """The one terminal event of a request. `error` is set for every outcome but COMPLETED."""

    request_id: RequestId
    outcome: Outcome
    kind: RequestKind
    model: str
    created_seconds: int
    choices: tuple[ChoiceResult, ...] = ()
    usage: Usage | None = None
    error: ErrorBody | None = None
    return_token_ids: bool = False
    wants_logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedOutcome:
    """An outcome's exact bytes as they are (or will be) on the results topic, decided once, in the ledger."""

    request_id: RequestId
    outcome: Outcome
    wire_format: WireFormat
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    reply_to: str | None
    sealed_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedOutcome:
    """A terminal as it lies on the results topic, and what its headers say of the request."""

    outcome: SealedOutcome
    tenant: str
    pool: str
    coordinates: Coordinates | None
