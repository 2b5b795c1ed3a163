"""Which of the supervisors acts. Knows the ledger's leader lease and a clock; refuses to know what leaders do.

Leadership only saves double work: everything a leader does is a compare-and-set or a harmless repeat, so that two
leaders for a moment break nothing.
"""

from typing import Protocol

import structlog

from shared.resilience.clock import Clock
from shared.telemetry.metrics import IS_LEADER

logger = structlog.get_logger(__name__)

LEADERSHIP = "supervisor"


class Elections(Protocol):
    """The part of the ledger that elects. Both raise LedgerUnavailable."""

    async def elect(self, name: str, *, ttl_ms: int) -> int | None: ...

    async def resign(self, name: str) -> bool: ...


class Leadership:
    def __init__(self, elections: Elections, *, ttl_ms: int, clock: Clock) -> None:
        self._elections = elections
        self._ttl_ms = ttl_ms
        self._clock = clock
        self._fence: int | None = None
        self._valid_until = float("-inf")

    @property
    def is_leader(self) -> bool:
        """Judged by our own clock from before the question was sent: we stop before anybody else may start."""
        return self._fence is not None and self._clock.monotonic() < self._valid_until

    @property
    def fence(self) -> int | None:
        return self._fence if self.is_leader else None

    async def campaign(self) -> bool:
        """Become or stay the leader. True when this election is a new one, and still good: an answer that took longer
        than the lease elects nobody, and the next one is news. Raises LedgerUnavailable."""
        asked_at = self._clock.monotonic()
        was_leader, before = self.is_leader, self._fence
        fence = await self._elections.elect(LEADERSHIP, ttl_ms=self._ttl_ms)
        self._fence = fence
        self._valid_until = asked_at + self._ttl_ms / 1_000
        IS_LEADER.set(self.is_leader)
        if fence is None:
            if before is not None:
                logger.warning("no longer the leader", was_leader=was_leader, fence=before)
            return False
        if not self.is_leader:
            self._fence = None
            return False
        return fence != before

    async def resign(self) -> None:
        """Let the next one start at once instead of after the lease. Raises LedgerUnavailable."""
        if self._fence is not None:
            self._fence = None
            IS_LEADER.set(0)
            await self._elections.resign(LEADERSHIP)
