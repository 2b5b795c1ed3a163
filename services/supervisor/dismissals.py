"""Takes dead workers out of their consumer groups, so that their partitions move now and not after Kafka's session.

Dead is who has no lease: every living worker refreshes one from before it joins its group until it has left it. It
changes nothing but speed: a worker dismissed by mistake joins again, and claims are fenced. Refuses to hand requests
on; that is `reassignment.py`, and comes first: while the group rebalances nobody reads the copies.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog

from shared.contracts.identifiers import Incarnation, is_incarnation
from shared.contracts.topics import TopicNames
from shared.messaging.group_members import GroupMember

logger = structlog.get_logger(__name__)

AGAIN_AFTER_SECONDS = 30.0
"""Who comes back without a lease lives, and cannot reach the ledger: throwing it out again and again would rebalance
its whole pool."""


class Leases(Protocol):
    """Raises LedgerUnavailable."""

    async def without_lease(self, incarnations: Sequence[Incarnation]) -> list[Incarnation]: ...
    async def lost_incarnations(self) -> list[Incarnation]:
        """Those without a lease that own requests."""
        ...


class Members(Protocol):
    """Both raise BrokerUnavailable."""

    async def of(self, group: str) -> list[GroupMember]: ...

    async def dismiss(self, group: str, member: GroupMember) -> bool: ...


class Dismissals:
    def __init__(self, leases: Leases, members: Members, *, names: TopicNames, monotonic: Callable[[], float]) -> None:
        self._leases = leases
        self._members = members
        self._names = names
        self._monotonic = monotonic
        self._dismissed_at: dict[Incarnation, float] = {}

    async def sweep(self, pools: Collection[str]) -> list[Incarnation]:
        """Who was dismissed now. Members that are not called like an incarnation are none of our business."""
        horizon = self._monotonic() - AGAIN_AFTER_SECONDS
        self._dismissed_at = {name: at for name, at in self._dismissed_at.items() if at > horizon}
        return [incarnation for pool in pools for incarnation in await self._sweep(pool)]

    async def _sweep(self, pool: str) -> list[Incarnation]:
        group = self._names.worker_group(pool)
        members = {
            Incarnation(member.client_id): member
            for member in await self._members.of(group)
            if is_incarnation(member.client_id)
        }
        suspects = [incarnation for incarnation in members if incarnation not in self._dismissed_at]
        dismissed = []
        dead = await self._leases.without_lease(suspects) if suspects else []
        still_owning = set(await self._leases.lost_incarnations()) if dead else set()
        for incarnation in dead:
            if incarnation in still_owning:
                continue
            if await self._members.dismiss(group, members[incarnation]):
                dismissed.append(incarnation)
                self._dismissed_at[incarnation] = self._monotonic()
                logger.warning("a dead worker was taken out of its group", incarnation=incarnation, group=group)
        return dismissed
