"""Only members that are workers without a lease are taken out of a group."""

from collections.abc import Sequence

import pytest

from services.supervisor.dismissals import AGAIN_AFTER_SECONDS, Dismissals
from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable
from shared.contracts.identifiers import Incarnation, WorkerId, new_incarnation
from shared.contracts.topics import TopicNames
from shared.messaging.group_members import GroupMember
from shared.resilience.clock import ManualClock

DEAD, ALIVE = new_incarnation(WorkerId("w-0")), new_incarnation(WorkerId("w-1"))
GROUP = TopicNames().worker_group("default")


class Groups:
    """Kafka's group coordinator as far as dismissals see it."""

    def __init__(self, *client_ids: str) -> None:
        self.members = [GroupMember(member_id=f"{name}-x", client_id=name) for name in client_ids]
        self.groups_seen: list[str] = []
        self.is_away = False

    async def of(self, group: str) -> list[GroupMember]:
        self.groups_seen.append(group)
        return list(self.members)

    async def dismiss(self, group: str, member: GroupMember) -> bool:
        if self.is_away:
            raise BrokerUnavailable("away")
        assert group == GROUP
        self.members.remove(member)
        return True

    @property
    def names(self) -> list[str]:
        return [member.client_id for member in self.members]


class Leases:
    def __init__(self, *living: Incarnation) -> None:
        self.living = set(living)
        self.is_away = False
        self.owning: list[Incarnation] = []

    async def without_lease(self, incarnations: Sequence[Incarnation]) -> list[Incarnation]:
        if self.is_away:
            raise LedgerUnavailable("away")
        return [incarnation for incarnation in incarnations if incarnation not in self.living]

    async def lost_incarnations(self) -> list[Incarnation]:
        return self.owning


def dismissals(leases: Leases, groups: Groups, clock: ManualClock | None = None) -> Dismissals:
    return Dismissals(leases, groups, names=TopicNames(), monotonic=(clock or ManualClock()).monotonic)


async def test_a_worker_without_a_lease_is_taken_out_of_its_group_and_the_others_stay() -> None:
    groups = Groups(DEAD, ALIVE)
    assert await dismissals(Leases(ALIVE), groups).sweep(["default"]) == [DEAD]
    assert groups.names == [ALIVE]


async def test_a_member_that_is_not_called_like_an_incarnation_is_left_alone() -> None:
    groups = Groups("somebody-elses-consumer", "w-0", "w-0.short")
    assert await dismissals(Leases(), groups).sweep(["default"]) == []
    assert len(groups.members) == 3


async def test_every_pool_has_its_own_group_and_no_pool_no_question() -> None:
    groups = Groups()
    await dismissals(Leases(), groups).sweep([])
    await dismissals(Leases(), groups).sweep(["default", "other"])
    assert groups.groups_seen == [GROUP, TopicNames().worker_group("other")]


async def test_nobody_is_dismissed_while_the_ledger_is_away() -> None:
    groups, leases = Groups(DEAD), Leases()
    leases.is_away = True
    with pytest.raises(LedgerUnavailable):
        await dismissals(leases, groups).sweep(["default"])
    assert groups.names == [DEAD]


async def test_a_failed_dismissal_is_done_by_the_next_sweep() -> None:
    groups = Groups(DEAD)
    groups.is_away = True
    with pytest.raises(BrokerUnavailable):
        await dismissals(Leases(), groups).sweep(["default"])
    groups.is_away = False
    assert await dismissals(Leases(), groups).sweep(["default"]) == [DEAD]


async def test_who_joins_again_without_a_lease_is_left_in_the_group_for_a_while() -> None:
    """It lives and cannot reach the ledger; its pool must not rebalance twice a second for that."""
    groups, clock = Groups(DEAD), ManualClock()
    sweeping = dismissals(Leases(), groups, clock)
    assert await sweeping.sweep(["default"]) == [DEAD]
    groups.members.append(GroupMember(member_id="again", client_id=DEAD))
    clock.move(AGAIN_AFTER_SECONDS - 1)
    assert await sweeping.sweep(["default"]) == []
    clock.move(2)
    assert await sweeping.sweep(["default"]) == [DEAD]


async def test_who_still_owns_requests_stays_until_these_are_handed_on() -> None:
    """A dismissal makes the group rebalance, and nobody reads the copies meanwhile."""
    groups, leases = Groups(DEAD, ALIVE), Leases(ALIVE)
    leases.owning = [DEAD]
    assert await dismissals(leases, groups).sweep(["default"]) == []
    leases.owning = []
    assert await dismissals(leases, groups).sweep(["default"]) == [DEAD]
