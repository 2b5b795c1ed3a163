"""One record in hand, from the poll to its last word. Values and the two ports it came through; no decisions.

A `Work` keeps what was read from its record, so that claiming it again (held, fenced, engine lost) reads nothing
twice. It ends by `delivery.done()`, called in one place only (`conclusion.py`) or after an acknowledged copy.
"""

from dataclasses import dataclass, field
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from shared.contracts.errors import PlatformError
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.contracts.requests import InferenceRequest, RequestEnvelope
from shared.ledger.records import ClaimRequest
from shared.messaging.records import SourceRecord


class RecordDelivery(Protocol):
    """A record whose offset is ours to finish. `done` may be called at any time, twice, and never raises."""

    @property
    def record(self) -> SourceRecord: ...
    def done(self) -> None: ...
    def wait_turn(self, is_waiting: bool) -> None:
        """It waits for another record, not for this worker: it takes no room of those that are worked on."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """A readable record. `request` is None and `refusal` set when it was understood and is invalid."""

    delivery: RecordDelivery
    envelope: RequestEnvelope
    model: str
    received_ns: int
    request: InferenceRequest | None = None
    refusal: PlatformError | None = None
    prompts: list[list[int]] | None = None
    """Token ids per prompt, once tokenized."""
    predicted_token_ids: list[int] = field(default_factory=list)
    """Of the output that the caller expects, once tokenized."""
    token: ClaimToken | None = None
    """Of the claim under which it runs now; None while nothing is claimed."""
    claimed: ClaimRequest | None = None
    """What was asked when it was last claimed: all that Redis needs to know of it again after losing its data."""
    failures: int = 0
    """Attempts, anywhere, that ended in an error of ours which the ledger does not count (not a lost claim)."""
    has_seen_seal: bool = False
    """The ledger said `sealed` once already."""
    has_seen_foreign: bool = False
    """The ledger said `foreign` once already."""
    has_been_passed_on: bool = False
    """Another worker has a copy; this record only keeps its place."""
    span: Span = INVALID_SPAN
    context: Context = field(default_factory=Context)

    @property
    def request_id(self) -> RequestId:
        return self.envelope.request_id

    @property
    def created_seconds(self) -> int:
        """The same whoever answers: the first record's time, not anybody's clock."""
        return self.envelope.coordinates.timestamp_ms // 1_000

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts or ()))
