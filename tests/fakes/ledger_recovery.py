"""What the in-memory ledger does when Redis lost its data: the verbs of line 14, over the same `Store`."""

from shared.contracts.events import PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.requests import Lane
from shared.ledger.records import (
    ClaimRequest,
    Epoch,
    Registration,
    RequestRecord,
    StreamMessage,
)
from shared.settings.redis import RedisSettings
from tests.fakes.ledger_store import Entry, Store


class RecoveringVerbs:
    """Part of `InMemoryLedger`, which has the store, its own kind of absence, and the other verbs."""

    store: Store
    settings: RedisSettings

    def _check(self) -> None:
        raise NotImplementedError

    def _entry(self, request_id: str) -> Entry:
        raise NotImplementedError

    def _create(self, entry: Entry, registration: Registration) -> None:
        raise NotImplementedError

    async def refresh_lease(self, incarnation: Incarnation) -> Epoch | None:
        self._check()
        self.store.leases[incarnation] = self.store.now_ms() + self.settings.lease_ttl_ms
        return self.store.epoch

    async def epoch(self) -> Epoch | None:
        self._check()
        return self.store.epoch

    async def open_epoch(self, *, is_refilled: bool) -> Epoch:
        self._check()
        if self.store.epoch is None:
            self.store.num_epochs += 1
            name = f"epoch-{self.store.num_epochs}"
            self.store.epoch = Epoch(name=name, opened_at_ms=self.store.now_ms(), is_refilled=is_refilled)
        return self.store.epoch

    async def reclaim(self, request: ClaimRequest, token: ClaimToken, *, sealed: SealedOutcome | None = None) -> bool:
        registration = request.registration
        entry = self._entry(registration.request_id)
        await self.refresh_lease(request.incarnation)
        if entry.finished_at_ms is not None or entry.sealed:
            return False
        if sealed is None:
            if entry.token:
                return entry.token == token
            if entry.attempts or entry.verdict:
                return False
        if entry.registration is None:
            self._create(entry, registration)
        elif entry.registration.fingerprint != registration.fingerprint:
            return False
        entry.token, entry.holder, entry.claimed = token, request.incarnation, request
        entry.attempts, entry.engine = 1, request.engine
        entry.sealed = sealed
        return True

    async def restore(self, published: PublishedOutcome) -> bool:
        outcome = published.outcome
        entry = self._entry(outcome.request_id)
        if entry.sealed and entry.finished_at_ms is not None:
            return False
        entry.sealed = outcome
        entry.finished_at_ms = entry.finished_at_ms or self.store.now_ms()
        entry.restored = entry.restored or published
        self.store.publish(entry, [StreamMessage(request_id=RequestId(outcome.request_id), terminal=outcome)])
        entry.subscribers.clear()
        entry.clear_holder()
        return True


def restored_record(request_id: RequestId, entry: Entry, published: PublishedOutcome) -> RequestRecord:
    return RequestRecord(
        request_id=request_id, state=entry.state, pool=published.pool, lane=Lane.INTERACTIVE, tenant=published.tenant,
        deadline_ms=None, fingerprint="", seed=0, holder=None, coordinates=published.coordinates, attempts=0,
        lost_claims=0, cancel_reason=None, registered_at_ms=published.outcome.sealed_at_ms,
        finished_at_ms=entry.finished_at_ms, sealed=entry.sealed,
    )  # fmt: skip
