"""What the in-memory ledger remembers: the keys of Redis as Python objects. No verbs."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.contracts.events import Chunk, PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.ledger.records import (
    ClaimRequest,
    Epoch,
    Registration,
    RequestState,
    StreamMessage,
    Verdict,
)

FIRST_EPOCH = Epoch(name="epoch-1", opened_at_ms=0, is_refilled=False)


@dataclass
class Entry:
    """One request. `registration` None: only a tombstone or a done marker."""

    registration: Registration | None = None
    claimed: ClaimRequest | None = None
    token: ClaimToken | None = None
    holder: Incarnation | None = None
    attempts: int = 0
    lost: int = 0
    cancel: str | None = None
    engine: str | None = None
    foreign_since_ms: int | None = None
    verdict: tuple[Verdict, str, int] | None = None
    sealed: SealedOutcome | None = None
    registered_at_ms: int = 0
    finished_at_ms: int | None = None
    tombstones: dict[str | None, str] = field(default_factory=dict)
    subscribers: list[str] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    next_positions: dict[int, int] = field(default_factory=dict)
    ended_choices: set[int] = field(default_factory=set)
    restored: PublishedOutcome | None = None

    @property
    def state(self) -> RequestState:
        if self.finished_at_ms is not None:
            return RequestState.FINISHED
        if self.sealed:
            return RequestState.SEALED
        if self.verdict:
            return RequestState.DECIDED
        return RequestState.RUNNING if self.token else RequestState.WAITING

    def clear_holder(self) -> None:
        self.token = self.holder = None


@dataclass
class Store:
    """What Redis would hold."""

    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    entries: dict[str, Entry] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    leaders: dict[str, tuple[str, int]] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)
    streams: dict[str, list[asyncio.Queue[list[StreamMessage] | None]]] = field(default_factory=dict)
    cancellations: dict[str, list[asyncio.Queue[RequestId | None]]] = field(default_factory=dict)
    epoch: Epoch | None = FIRST_EPOCH
    num_epochs: int = 1

    def lose_everything(self) -> None:
        """Redis came back empty. Who listens to a channel still does."""
        self.entries.clear()
        self.leases.clear()
        self.leaders.clear()
        self.epoch = None

    def is_alive(self, incarnation: str | None) -> bool:
        return self.leases.get(incarnation or "", 0) > self.now_ms()

    def publish(self, entry: Entry, messages: list[StreamMessage]) -> None:
        for channel in entry.subscribers:
            for queue in self.streams.get(channel, []):
                queue.put_nowait(messages)
