"""The ledger in a dictionary: same verbs, same answers (tests/contract/ledger runs both), no Redis.

Tests move its clock, cut its subscriptions and make it unavailable. Several ledgers may share one `Store`.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Self, TypeVar

from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.contracts.events import Chunk, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId, new_claim_token
from shared.ledger.records import (
    LOST,
    Append,
    AppendAnswer,
    AppendStatus,
    CancelAnswer,
    Claim,
    ClaimRequest,
    Conflict,
    Ended,
    Fenced,
    Finished,
    Foreign,
    Held,
    OwnedRequest,
    Recovering,
    RegisterAnswer,
    RegisterStatus,
    Registration,
    RequestRecord,
    Run,
    SealAnswer,
    Sealed,
    StreamMessage,
    StreamSnapshot,
    Verdict,
)  # fmt: skip
from shared.ledger.wire import encode_flush
from shared.settings.redis import RedisSettings
from tests.fakes.ledger_recovery import RecoveringVerbs, restored_record
from tests.fakes.ledger_store import Entry, Store

T = TypeVar("T")
_SEALS_OF = {
    Verdict.CANCELLED: {"cancelled"},
    Verdict.EXPIRED: {"expired"},
    Verdict.POISONED: {"failed", "dead-lettered"},
    Verdict.INCOMPATIBLE: {"failed"},
}


class InMemoryLedger(RecoveringVerbs):
    """`available = False` makes every verb raise `LedgerUnavailable`."""

    def __init__(self, settings: RedisSettings | None = None, *, store: Store | None = None) -> None:
        self.settings = settings or RedisSettings()
        self.store = store or Store()
        self.available = True
        self._candidate = secrets.token_hex(8)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        return None

    def cut_subscriptions(self) -> None:
        """As if the connection had been lost and found again."""
        for queues in self.store.streams.values():
            for queue in queues:
                queue.put_nowait([LOST])

    def _check(self) -> None:
        if not self.available:
            raise LedgerUnavailable("Redis does not answer: switched off by the test")

    def _entry(self, request_id: str) -> Entry:
        self._check()
        return self.store.entries.setdefault(request_id, Entry())

    def _known(self, request_id: str) -> Entry | None:
        self._check()
        entry = self.store.entries.get(request_id)
        if entry and (entry.registration or entry.finished_at_ms is not None):
            return entry
        return None

    def _create(self, entry: Entry, registration: Registration) -> None:
        entry.registration = registration
        entry.registered_at_ms = self.store.now_ms()
        entry.cancel = entry.tombstones.get(None) or entry.tombstones.get(registration.tenant)

    async def ping(self) -> None:
        self._check()

    async def time_ms(self) -> int:
        self._check()
        return self.store.now_ms()

    async def register(self, registration: Registration, *, channel: str | None) -> RegisterAnswer:
        _check_fingerprint(registration)
        entry = self._entry(registration.request_id)
        status = RegisterStatus.EXISTING
        if entry.registration is None and entry.finished_at_ms is None:
            self._create(entry, registration)
            status = RegisterStatus.NEW
        elif entry.registration and entry.registration.fingerprint != registration.fingerprint:
            return RegisterAnswer(status=RegisterStatus.CONFLICT, state=None)
        self._subscribe(entry, channel)
        return RegisterAnswer(status=status, state=entry.state)

    def _subscribe(self, entry: Entry, channel: str | None) -> None:
        if channel and entry.finished_at_ms is None and channel not in entry.subscribers:
            entry.subscribers.append(channel)

    async def attach(self, request_id: RequestId, *, channel: str) -> StreamSnapshot | None:
        entry = self._known(request_id)
        if entry is None:
            return None
        self._subscribe(entry, channel)
        return StreamSnapshot(
            state=entry.state,
            chunks=list(entry.chunks),
            sealed=entry.sealed,
            finished=entry.finished_at_ms is not None,
            tenant=entry.registration.tenant if entry.registration else "",
        )

    async def detach(self, request_id: RequestId, *, channel: str) -> int:
        self._check()
        entry = self.store.entries.get(request_id) or Entry()
        entry.subscribers = [name for name in entry.subscribers if name != channel]
        return len(entry.subscribers)

    async def describe(self, request_id: RequestId) -> RequestRecord | None:
        entry = self._known(request_id)
        if entry is not None and entry.restored is not None and entry.registration is None:
            return restored_record(request_id, entry, entry.restored)
        if entry is None or entry.registration is None:
            return None
        known = entry.registration
        return RequestRecord(
            request_id=request_id, state=entry.state, pool=known.pool, lane=known.lane, tenant=known.tenant,
            deadline_ms=known.deadline_ms, fingerprint=known.fingerprint, seed=known.seed, holder=entry.holder,
            coordinates=entry.claimed.coordinates if entry.claimed else None, attempts=entry.attempts,
            lost_claims=entry.lost, cancel_reason=entry.cancel, registered_at_ms=entry.registered_at_ms,
            finished_at_ms=entry.finished_at_ms, sealed=entry.sealed,
        )  # fmt: skip

    async def cancel(self, request_id: RequestId, *, reason: str, tenant: str | None) -> CancelAnswer:
        entry = self._entry(request_id)
        if entry.registration is None:
            if entry.finished_at_ms is not None:
                return CancelAnswer(requested=False, known=True, outcome=entry.sealed)
            entry.tombstones.setdefault(tenant, reason)
            return CancelAnswer(requested=True, known=False)
        if tenant is not None and tenant != entry.registration.tenant:
            return CancelAnswer(requested=True, known=False)
        if entry.sealed or entry.finished_at_ms is not None:
            return CancelAnswer(requested=False, known=True, outcome=entry.sealed)
        entry.cancel = entry.cancel or reason
        for queue in self.store.cancellations.get(entry.holder or "", []):
            queue.put_nowait(request_id)
        return CancelAnswer(requested=True, known=True)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[list[StreamMessage]]]:
        self._check()
        with _listening(self.store.streams, channel) as messages:
            yield messages

    @asynccontextmanager
    async def listen_cancellations(self, incarnation: Incarnation) -> AsyncIterator[AsyncIterator[RequestId]]:
        self._check()
        with _listening(self.store.cancellations, incarnation) as messages:
            yield messages

    async def claim(self, request: ClaimRequest) -> Claim:
        registration, now = request.registration, self.store.now_ms()
        _check_fingerprint(registration)
        entry = self._entry(registration.request_id)
        await self.refresh_lease(request.incarnation)
        if entry.finished_at_ms is not None:
            return Finished()
        if self.store.epoch is None:
            return Recovering()
        if entry.registration is None:
            self._create(entry, registration)
        elif entry.registration.fingerprint != registration.fingerprint:
            return Conflict()
        if entry.sealed:
            return Sealed(outcome=entry.sealed)
        if entry.holder:
            is_own = entry.holder == request.incarnation
            if request.running if is_own else self.store.is_alive(entry.holder):
                return Held(by=entry.holder)
            entry.lost += entry.verdict is None
            entry.clear_holder()
        verdict = entry.verdict or self._judge(entry, now, request.max_attempts)
        if verdict is None and entry.chunks and entry.engine and entry.engine != request.engine:
            entry.foreign_since_ms = entry.foreign_since_ms or now
            if now - entry.foreign_since_ms < self.settings.foreign_patience_ms:
                return Foreign(engine=entry.engine)
            verdict = Verdict.INCOMPATIBLE, "begun by an engine that is gone, with other weights or numerics", now
        entry.token, entry.holder, entry.claimed = new_claim_token(), request.incarnation, request
        entry.verdict = verdict
        if entry.verdict:
            verdict, reason, at_ms = entry.verdict
            return Ended(verdict=verdict, reason=reason, token=entry.token, at_ms=at_ms, chunks=list(entry.chunks))
        entry.attempts, entry.engine, entry.foreign_since_ms = entry.attempts + 1, request.engine, None
        assert entry.registration is not None
        return Run(
            token=entry.token,
            chunks=list(entry.chunks),
            seed=entry.registration.seed,
            attempt=entry.attempts,
            lost_claims=entry.lost,
            cancel_requested=entry.cancel is not None,
        )

    def _judge(self, entry: Entry, now: int, max_attempts: int) -> tuple[Verdict, str, int] | None:
        assert entry.registration is not None
        deadline_ms = entry.registration.deadline_ms
        if entry.cancel is not None:
            return Verdict.CANCELLED, entry.cancel, now
        if deadline_ms is not None and deadline_ms <= now:
            return Verdict.EXPIRED, "deadline", now
        if entry.lost >= max_attempts:
            return Verdict.POISONED, f"lost {entry.lost} times", now
        return None

    async def append(self, batch: Sequence[Append]) -> list[AppendAnswer]:
        self._check()
        encode_flush(batch)  # refuses what cannot be written
        return [self._append(append) for append in batch]

    def _append(self, append: Append) -> AppendAnswer:
        entry = self.store.entries.get(append.request_id)
        if entry is None or entry.token != append.token or entry.registration is None:
            return AppendAnswer(status=AppendStatus.FENCED)
        status, accepted = AppendStatus.OK, []
        for chunk in append.chunks:
            found = self._judge_chunk(entry, chunk)
            if found is None:
                accepted.append(chunk)
            elif found is AppendStatus.CLOSED or status is AppendStatus.OK:
                status = found
        entry.chunks += accepted
        if accepted:
            messages = [StreamMessage(request_id=append.request_id, chunk=chunk) for chunk in accepted]
            self.store.publish(entry, messages)
        deadline_ms = entry.registration.deadline_ms
        return AppendAnswer(
            status=status,
            next_positions={chunk.choice: entry.next_positions.get(chunk.choice, 0) for chunk in append.chunks},
            cancel_requested=entry.cancel is not None,
            deadline_passed=deadline_ms is not None and deadline_ms <= self.store.now_ms(),
        )

    def _judge_chunk(self, entry: Entry, chunk: Chunk) -> AppendStatus | None:
        """None: it goes into the log (and is counted here)."""
        is_last = chunk.finish_reason is not None
        has_ended = chunk.choice in entry.ended_choices
        next_position = entry.next_positions.get(chunk.choice, 0)
        finish = chunk.position + len(chunk.token_ids)
        if finish <= next_position and (has_ended or not is_last):
            return AppendStatus.OK
        if has_ended or entry.sealed or entry.verdict:
            return AppendStatus.CLOSED
        if chunk.position != next_position:
            return AppendStatus.BEHIND
        entry.next_positions[chunk.choice] = finish
        if is_last:
            entry.ended_choices.add(chunk.choice)
        return None

    async def seal(self, request_id: RequestId, token: ClaimToken, outcome: SealedOutcome) -> SealAnswer:
        entry = self._known(request_id) or Entry()
        if entry.sealed:
            return Sealed(outcome=entry.sealed)
        if entry.token != token or entry.finished_at_ms is not None:
            return Fenced()
        if entry.verdict and outcome.outcome.value not in _SEALS_OF[entry.verdict[0]]:
            raise InvariantViolated(f"the outcome contradicts the verdict {entry.verdict[0].value}")
        entry.sealed = outcome
        return Sealed(outcome=outcome)

    async def finish(self, request_id: RequestId) -> bool:
        entry = self._entry(request_id)
        if entry.finished_at_ms is not None:
            return entry.sealed is not None
        if entry.registration and not entry.sealed:
            return False
        entry.finished_at_ms = self.store.now_ms()
        self.store.publish(entry, [StreamMessage(request_id=request_id, terminal=entry.sealed)])
        entry.subscribers.clear()
        entry.clear_holder()
        return entry.sealed is not None

    async def release(self, request_id: RequestId, token: ClaimToken) -> bool:
        entry = self._known(request_id)
        if entry is None or entry.token != token:
            return False
        entry.clear_holder()
        return True

    async def drop_lease(self, incarnation: Incarnation) -> None:
        self._check()
        self.store.leases.pop(incarnation, None)

    async def lost_incarnations(self) -> list[Incarnation]:
        self._check()
        holders = {entry.holder for entry in self.store.entries.values() if entry.holder}
        return [holder for holder in holders if not self.store.is_alive(holder)]

    async def without_lease(self, incarnations: Sequence[Incarnation]) -> list[Incarnation]:
        self._check()
        return [incarnation for incarnation in incarnations if not self.store.is_alive(incarnation)]

    async def owned(self, incarnation: Incarnation) -> list[OwnedRequest]:
        self._check()
        return [
            _owned(RequestId(request_id), entry)
            for request_id, entry in self.store.entries.items()
            if entry.holder == incarnation
        ]

    async def orphan(self, request_id: RequestId, token: ClaimToken) -> bool:
        entry = self._known(request_id)
        if entry is None or entry.token != token or self.store.is_alive(entry.holder):
            return False
        entry.clear_holder()
        entry.lost += entry.verdict is None and entry.sealed is None
        return True

    async def elect(self, name: str, *, ttl_ms: int) -> int | None:
        self._check()
        leader, until_ms = self.store.leaders.get(name, ("", 0))
        if until_ms > self.store.now_ms() and leader != self._candidate:
            return None
        if until_ms <= self.store.now_ms():
            self.store.fences[name] = self.store.fences.get(name, 0) + 1
        self.store.leaders[name] = (self._candidate, self.store.now_ms() + ttl_ms)
        return self.store.fences[name]

    async def resign(self, name: str) -> bool:
        self._check()
        if self.store.leaders.get(name, ("", 0))[0] != self._candidate:
            return False
        del self.store.leaders[name]
        return True


def _check_fingerprint(registration: Registration) -> None:
    if not registration.fingerprint:
        raise ValueError("a registration needs a fingerprint")


@contextmanager
def _listening(queues: dict[str, list[asyncio.Queue[T | None]]], channel: str) -> Iterator[AsyncIterator[T]]:
    queue: asyncio.Queue[T | None] = asyncio.Queue()
    queues.setdefault(channel, []).append(queue)

    async def messages() -> AsyncIterator[T]:
        while (message := await queue.get()) is not None:
            yield message

    try:
        yield messages()
    finally:
        queues[channel].remove(queue)
        queue.put_nowait(None)


def _owned(request_id: RequestId, entry: Entry) -> OwnedRequest:
    assert entry.registration is not None
    assert entry.token is not None
    assert entry.claimed is not None
    return OwnedRequest(
        request_id=request_id, token=entry.token, coordinates=entry.claimed.coordinates,
        pool=entry.registration.pool, lane=entry.registration.lane, tenant=entry.registration.tenant,
        deadline_ms=entry.registration.deadline_ms, attempt=entry.attempts, state=entry.state,
        trace_headers=entry.claimed.trace_headers,
    )  # fmt: skip
