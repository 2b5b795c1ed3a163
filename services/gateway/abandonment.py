"""Ends the requests whose clients went away and did not come back within the grace time.

It counts readers, not connections to the ledger; who reads at another gateway is the ledger's to say. A gateway that
stops never comes here: its requests go on, and their clients can resume them elsewhere.
"""

from collections.abc import Callable

import structlog

from services.gateway.ports import GatewayLedger
from shared.contracts.errors import LedgerUnavailable
from shared.contracts.identifiers import RequestId
from shared.telemetry.metrics import ABANDONED_REQUESTS

logger = structlog.get_logger(__name__)

REASON = "the client disconnected"


class Abandonments:
    """Readers of each request at this gateway, and the alarms of those that lost their last one."""

    def __init__(
        self, ledger: GatewayLedger, *, channel: str, grace_seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._channel = channel
        self._grace_seconds = grace_seconds
        self._monotonic = monotonic
        self._readers: dict[RequestId, int] = {}
        self._due_at: dict[RequestId, float] = {}

    def joined(self, request_id: RequestId) -> None:
        self._readers[request_id] = self._readers.get(request_id, 0) + 1
        self._due_at.pop(request_id, None)

    def left(self, request_id: RequestId, *, has_ended: bool) -> None:
        """A reader is gone. `has_ended`: nothing is left to cancel (or the gateway itself is stopping)."""
        readers = self._readers.get(request_id, 0) - 1
        if readers > 0:
            self._readers[request_id] = readers
            return
        self._readers.pop(request_id, None)
        if not has_ended:
            self._due_at[request_id] = self._monotonic() + self._grace_seconds

    async def sweep(self) -> None:
        """Cancel what is due. Called a few times a second. While the ledger is away nobody can come back elsewhere
        either, so the grace begins anew."""
        now = self._monotonic()
        for request_id in [request_id for request_id, due_at in self._due_at.items() if due_at <= now]:
            try:
                await self._end(request_id)
            except LedgerUnavailable:
                if request_id in self._due_at:
                    self._due_at[request_id] = self._monotonic() + self._grace_seconds

    async def _end(self, request_id: RequestId) -> None:
        subscribers_left = await self._ledger.detach(request_id, channel=self._channel)
        if request_id in self._readers:
            # Somebody came back while we detached: subscribe again, as if nothing had been.
            await self._ledger.attach(request_id, channel=self._channel)
            return
        if subscribers_left == 0:
            await self._ledger.cancel(request_id, reason=REASON, tenant=None)
            ABANDONED_REQUESTS.inc()
            logger.info("request cancelled, its client did not come back", request_id=request_id)
        self._due_at.pop(request_id, None)
