"""What the ledger is asked and what it answers. Values only: no Redis, no clock, no byte formats.

A verb whose answer can differ in kind returns one class of a union (`Claim`, `SealAnswer`); match on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared.contracts.events import Chunk, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.requests import Coordinates, Lane


class RequestState(StrEnum):
    """Where a request stands. RUNNING means claimed, even when the holder has just died."""

    WAITING = "waiting"
    RUNNING = "running"
    DECIDED = "decided"
    """A verdict (cancelled, expired, poisoned) has been given; its bytes are not sealed yet."""
    SEALED = "sealed"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the ledger has to know to keep a request, whoever tells it first. `deadline_ms`: Unix time."""

    request_id: RequestId
    pool: str
    lane: Lane
    tenant: str
    deadline_ms: int | None
    fingerprint: str
    seed: int


class RegisterStatus(StrEnum):
    NEW = "new"
    EXISTING = "existing"
    CONFLICT = "conflict"
    """The id is known with another body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterAnswer:
    status: RegisterStatus
    state: RequestState | None

    @property
    def should_publish(self) -> bool:
        """New, or a repeat of one that nobody runs: the first gateway may have died before publishing."""
        return self.status is not RegisterStatus.CONFLICT and self.state is RequestState.WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSnapshot:
    """A request's log at one instant. `sealed` is None again once the outcome's retention has passed."""

    state: RequestState
    chunks: list[Chunk]
    sealed: SealedOutcome | None
    finished: bool
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """Everything the ledger knows of one request, for status pages and operators."""

    request_id: RequestId
    state: RequestState
    pool: str
    lane: Lane
    tenant: str
    deadline_ms: int | None
    fingerprint: str
    seed: int
    holder: Incarnation | None
    coordinates: Coordinates | None
    attempts: int
    lost_claims: int
    cancel_reason: str | None
    registered_at_ms: int
    finished_at_ms: int | None
    sealed: SealedOutcome | None

    @property
    def registration(self) -> Registration | None:
        """What it takes to make it known again; None of one that was put back from its result."""
        if not self.fingerprint:
            return None
        return Registration(
            request_id=self.request_id,
            pool=self.pool,
            lane=self.lane,
            tenant=self.tenant,
            deadline_ms=self.deadline_ms,
            fingerprint=self.fingerprint,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAnswer:
    """`requested`: the flag (or a tombstone, when `known` is False) is set. Else the request has already ended."""

    requested: bool
    known: bool
    outcome: SealedOutcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMessage:
    """One wake-up with its data. `request_id` None: the connection was lost; read the logs again."""

    request_id: RequestId | None
    chunk: Chunk | None = None
    terminal: SealedOutcome | None = None

    @property
    def is_lost_marker(self) -> bool:
        return self.request_id is None


LOST = StreamMessage(request_id=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A worker asks to run a request. `running`: this incarnation is running it right now, so do not take over."""

    registration: Registration
    incarnation: Incarnation
    coordinates: Coordinates
    max_attempts: int
    running: bool = False
    engine: str = ""
    """Fingerprint of the asker's engine: weights, quantization, numerics."""
    trace_headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run it, continuing after `chunks`. `attempt` counts claims, from 1; `lost_claims` those that ended badly."""

    token: ClaimToken
    chunks: list[Chunk]
    seed: int
    attempt: int
    lost_claims: int = 0
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Somebody else (or the asker itself, when it said `running`) has it. Ask again in 500 ms."""

    by: Incarnation


class Verdict(StrEnum):
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    POISONED = "poisoned"
    INCOMPATIBLE = "incompatible"
    """Begun by an engine with other weights or numerics, of which none came back within the patience."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The ledger has decided the outcome, for good: render it from these values alone and seal it."""

    verdict: Verdict
    reason: str
    token: ClaimToken
    at_ms: int
    chunks: list[Chunk]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """The outcome that was sealed first. Publish exactly these bytes, then `finish`."""

    outcome: SealedOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Answered and published: the record is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The id is known with another body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Tokens of another engine are in its log: the asker's would contradict them. For somebody else to claim."""

    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovering:
    """Redis lost its data and is being refilled. Ask again in 500 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One life of Redis' memory. `is_refilled`: there was another before it, and its data were lost."""

    name: str
    opened_at_ms: int
    is_refilled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fenced:
    """The token is no longer the holder's: stop the work, claim again."""


Claim = Run | Held | Foreign | Ended | Sealed | Finished | Conflict | Recovering
SealAnswer = Sealed | Fenced


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One request's part of a flush, its chunks in order of position within each choice."""

    request_id: RequestId
    token: ClaimToken
    chunks: tuple[Chunk, ...]


class AppendStatus(StrEnum):
    OK = "ok"
    """All of it is in the log (it may have been there before)."""
    BEHIND = "behind"
    """The log does not go on where a chunk starts: send again from `next_positions`."""
    FENCED = "fenced"
    CLOSED = "closed"
    """Tokens after the end: the choice has a finish reason in the log, or the outcome is decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendAnswer:
    """`next_positions` per choice of the append, unless it was fenced. The flags are as of this append."""

    status: AppendStatus
    next_positions: Mapping[int, int] = field(default_factory=dict)
    cancel_requested: bool = False
    deadline_passed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedRequest:
    """What a lost worker held, with all that is needed to hand it on."""

    request_id: RequestId
    token: ClaimToken
    coordinates: Coordinates
    pool: str
    lane: Lane
    tenant: str
    deadline_ms: int | None
    attempt: int
    state: RequestState
    trace_headers: tuple[tuple[str, str], ...]
