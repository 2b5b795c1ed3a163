"""A request as every service understands it, whatever format it came in.

`InferenceRequest` is what was asked (the body), `RequestEnvelope` what surrounds it (identity, deadline, route
back): the body is the same whether it came by HTTP or by Kafka, the envelope is read from headers.
"""

from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.grammar import Grammar
from shared.contracts.identifiers import RequestId
from shared.contracts.sampling import SamplingParameters
from shared.contracts.schema_version import UNVERSIONED, SchemaVersion
from shared.contracts.tools import Tool, ToolCall, ToolChoice


class RequestKind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"


class WireFormat(StrEnum):
    """How a request's value is written; its result is written the same way."""

    JSON = "application/json"
    PROTOBUF = "application/protobuf"


class Lane(StrEnum):
    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """`tool_calls` are an assistant's; `tool_call_id` says which of them a tool's message answers."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One completion prompt: exactly one of the two is set."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """What is asked. `messages` for CHAT, `prompts` for COMPLETION (several prompts: choice = prompt * n + i).

    `best_of` above n: so many choices are generated for each prompt, numbered the same way; its outcome keeps the n
    of them with the highest mean log-probability. `model` None means the pool's own. `echo`: a completion's text
    begins with its prompt, and so do its log-probabilities; then `max_tokens` may be 0. `tool_choice` counts only
    with `tools`. `speculation`: how tokens are drafted, None being the pool's way; `prediction`: the output that the
    caller expects. Neither changes what is answered.
    """

    kind: RequestKind
    model: str | None
    messages: tuple[ChatMessage, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    sampling: SamplingParameters
    has_own_seed: bool = False
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    echo: bool = False
    best_of: int | None = None
    grammar: Grammar | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    tool_choice_name: str | None = None
    parallel_tool_calls: bool = True
    speculation: str | None = None
    prediction: str | None = None

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice is not ToolChoice.NONE

    @property
    def keeps_the_best(self) -> bool:
        """More choices are generated than are answered with."""
        return self.choices_per_prompt > self.sampling.n

    @property
    def choices_per_prompt(self) -> int:
        """That run, kept or not."""
        return max(self.sampling.n, self.best_of or 0)

    @property
    def num_choices(self) -> int:
        return self.choices_per_prompt * max(1, len(self.prompts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Where the first record of a request lies. Copies (resume, retry) carry them in headers."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderProblem:
    """What is wrong with a header that we understand: the request is refused, with an answer, because of it.

    `is_poison` means that the body cannot even be read (its format is one we do not speak).
    """

    header: str
    message: str
    is_poison: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnvelope:
    """Who asks, until when, and where the answer goes. `deadline_ms` is an instant: Unix milliseconds.

    `kind` is what the endpoint header says; None: the body tells. With a `problem` the envelope is still good
    for answering; reading the body raises it.
    """

    request_id: RequestId
    pool: str
    lane: Lane
    tenant: str
    wire_format: WireFormat
    fingerprint: str
    coordinates: Coordinates
    deadline_ms: int | None = None
    priority: int = 0
    reply_to: str | None = None
    key: bytes | None = None
    event_id: str | None = None
    attempt: int = 1
    retries: int = 0
    """Attempts so far that ended in an error of ours; what lost its worker is not among them."""
    is_ordered: bool = False
    """Worked on after the record of the same key before it. A copy never is: its original keeps the place."""
    version: SchemaVersion = UNVERSIONED
    trace_headers: tuple[tuple[str, str], ...] = ()
    foreign_headers: tuple[tuple[str, bytes | None], ...] = ()
    kind: RequestKind | None = None
    problem: HeaderProblem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """A wish on the cancellations topic. `tenant` None is an operator's: it cancels whoever asked."""

    request_id: RequestId
    tenant: str | None
    reason: str
