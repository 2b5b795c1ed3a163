"""Builders of what a ledger under test is asked, shared by its contract and property tests."""

import time
import uuid
from collections.abc import Awaitable, Callable

from shared.contracts.events import Chunk, FinishReason, Outcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.requests import Coordinates, Lane, WireFormat
from shared.ledger.ledger import Ledger
from shared.ledger.records import Append, AppendAnswer, ClaimRequest, Registration, Run

ALICE = Incarnation("alice.1")
BOB = Incarnation("bob.1")


class Bench:
    """Opens ledgers on one store and asks them in few words."""

    def __init__(self, open_ledger: Callable[[], Awaitable[Ledger]], ledger: Ledger) -> None:
        self.open_ledger = open_ledger
        self.ledger = ledger
        self.request_id = RequestId(uuid.uuid4().hex)

    def registration(self, **changes: object) -> Registration:
        values: dict[str, object] = {
            "request_id": self.request_id, "pool": "default", "lane": Lane.BULK, "tenant": "acme",
            "deadline_ms": None, "fingerprint": "f1", "seed": 2**62 + 1,
        }  # fmt: skip
        return Registration(**{**values, **changes})  # type: ignore[arg-type]

    def claim_request(
        self,
        incarnation: Incarnation = ALICE,
        *,
        running: bool = False,
        max_attempts: int = 3,
        engine: str = "e1",
        **changes: object,
    ) -> ClaimRequest:
        return ClaimRequest(
            registration=self.registration(**changes),
            incarnation=incarnation,
            coordinates=Coordinates(topic="requests", partition=3, offset=2**40, timestamp_ms=5),
            max_attempts=max_attempts,
            running=running,
            engine=engine,
            trace_headers=(("traceparent", "00-aa-bb-01"),),
        )

    async def claim(self, incarnation: Incarnation = ALICE, **changes: object) -> object:
        return await self.ledger.claim(self.claim_request(incarnation, **changes))  # type: ignore[arg-type]

    async def run(self, incarnation: Incarnation = ALICE, **changes: object) -> Run:
        answer = await self.claim(incarnation, **changes)
        assert isinstance(answer, Run), answer
        return answer

    async def append(self, token: ClaimToken, *chunks: Chunk) -> AppendAnswer:
        entry = Append(request_id=self.request_id, token=token, chunks=chunks)
        (answer,) = await self.ledger.append([entry])
        return answer

    def outcome(self, outcome: Outcome = Outcome.COMPLETED, value: bytes = b"{}") -> SealedOutcome:
        return SealedOutcome(
            request_id=self.request_id,
            outcome=outcome,
            wire_format=WireFormat.JSON,
            value=value,
            headers=(("ce_id", b"1"), ("odd\udcff", None)),
            reply_to="replies",
            sealed_at_ms=1_700_000_000_000,
        )


def chunk(position: int, *token_ids: int, choice: int = 0, text: str = "", finish: FinishReason | None = None) -> Chunk:
    return Chunk(
        choice=choice, position=position, token_ids=token_ids, text=text or f"<{position}>", finish_reason=finish
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000
