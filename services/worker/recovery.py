"""What workers do when Redis lost its data (DELIVERY line 14). Decides when; refuses to know Kafka and scripts.

Every worker sees the epoch whenever it refreshes its lease. When it is gone, each puts back what it holds, and one of
them, elected, puts back what is in Kafka: outcomes and cancellations. Claims are answered `recovering` until then, so
that nothing which has been answered is computed again. The grace lets every living worker put its own back first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import structlog

from shared.contracts.events import PublishedOutcome
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Cancellation
from shared.ledger.records import CancelAnswer, Epoch
from shared.resilience.clock import Clock
from shared.telemetry.metrics import LEDGER_REFILLS

_log = structlog.get_logger(__name__)

ELECTION = "refill"
_ELECTED_MS = 5_000
_BATCH = 256
_AGAIN_SECONDS = 0.2


class RefillingLedger(Protocol):
    """Every method raises `LedgerUnavailable`; asked again, it does no harm."""

    async def elect(self, name: str, *, ttl_ms: int) -> int | None: ...
    async def restore(self, published: PublishedOutcome) -> bool: ...
    async def cancel(self, request_id: RequestId, *, reason: str, tenant: str | None) -> CancelAnswer: ...
    async def epoch(self) -> Epoch | None: ...
    async def open_epoch(self, *, is_refilled: bool) -> Epoch: ...


class Archive(Protocol):
    """What Kafka remembers, from an instant (Unix ms) on. Both raise `BrokerUnavailable`."""

    def outcomes(self, since_ms: int) -> AsyncIterator[PublishedOutcome]: ...
    def cancellations(self, since_ms: int) -> AsyncIterator[Cancellation]: ...
    async def is_virgin(self) -> bool:
        """Nothing was ever answered: this is an installation's first start."""
        ...


class Recovery:
    """`noticed` at every refresh of the lease; `run` until cancelled. Raises nothing but what the ports raise."""

    def __init__(
        self,
        ledger: RefillingLedger,
        archive: Archive,
        *,
        put_back: Callable[[], Awaitable[None]],
        clock: Clock,
        grace_seconds: float,
        window_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._put_back = put_back
        self._clock = clock
        self._grace_seconds = grace_seconds
        self._window_seconds = window_seconds
        self._known: Epoch | None = None
        self._owes_claims = False
        self._is_open = False
        self._news = asyncio.Event()

    def noticed(self, epoch: Epoch | None) -> None:
        """What the lease's refresh was answered. Returns at once."""
        if epoch != self._known and self._known is not None:
            _log.warning("redis_lost_its_data", epoch=self._known.name)
            self._owes_claims = True
        self._known = epoch
        self._is_open = epoch is not None
        if self._owes_claims or not self._is_open:
            self._news.set()

    async def run(self) -> None:
        """Raises what the ports raise; to be started again then."""
        while True:
            await self._news.wait()
            if self._owes_claims:
                await self._put_back()
                self._owes_claims = False
            if not self._is_open and not await self._refill():
                await self._clock.sleep(_AGAIN_SECONDS)
            elif not self._owes_claims:
                self._news.clear()

    async def _refill(self) -> bool:
        """False: another worker is at it; look again soon."""
        if await self._ledger.epoch() is not None:
            self._is_open = True
            return True
        if not await self._is_elected():
            return False
        is_refilled = not await self._archive.is_virgin()
        if is_refilled:
            since_ms = self._clock.now_ms() - round(1_000 * self._window_seconds)
            # First the grace: an outcome that is on its way to Kafka now is there when we read, or its seal is back.
            await self._clock.sleep(self._grace_seconds)
            num_outcomes = await self._restore_outcomes(since_ms)
            num_cancellations = await self._repeat_cancellations(since_ms)
            LEDGER_REFILLS.inc()
            _log.warning("redis_refilled", outcomes=num_outcomes, cancellations=num_cancellations)
        await self._ledger.open_epoch(is_refilled=is_refilled)
        self._is_open = True
        return True

    async def _is_elected(self) -> bool:
        return await self._ledger.elect(ELECTION, ttl_ms=_ELECTED_MS) is not None

    async def _restore_outcomes(self, since_ms: int) -> int:
        count, batch = 0, list[PublishedOutcome]()
        async for published in self._archive.outcomes(since_ms):
            batch.append(published)
            if len(batch) == _BATCH:
                count += await self._restore(batch)
                await self._is_elected()
                batch = []
        return count + await self._restore(batch)

    async def _restore(self, batch: list[PublishedOutcome]) -> int:
        """In order, on one pipelined connection: of two terminals of one request the first is the truth."""
        return sum(await asyncio.gather(*map(self._ledger.restore, batch)))

    async def _repeat_cancellations(self, since_ms: int) -> int:
        count = 0
        async for cancellation in self._archive.cancellations(since_ms):
            await self._ledger.cancel(cancellation.request_id, reason=cancellation.reason, tenant=cancellation.tenant)
            count += 1
        return count
