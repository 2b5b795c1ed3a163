"""Copies go to partitions that somebody reads now, and are spread by load."""

from collections import Counter

from services.supervisor.fleet import Member, MemberState
from services.supervisor.heirs import Heirs
from shared.contracts.identifiers import Incarnation
from tests.unit.services.supervisor.builders import POOL, heartbeat

TOPIC = "resume"


def member(worker: str, *partitions: int, state: MemberState = MemberState.READY, **changes: object) -> Member:
    held = tuple((TOPIC, number) for number in partitions)
    beat = heartbeat(worker, partitions=(("requests", 99), *held), **changes)  # type: ignore[arg-type]
    return Member(heartbeat=beat, state=state, joined_at=0.0, heard_at=0.0, changed_at=0.0)


def test_a_partition_of_a_living_ready_worker_of_the_pool_is_chosen() -> None:
    members = [
        member("a", 1, state=MemberState.LOST),
        member("b", 2, state=MemberState.DRAINING),
        member("c", 3, state=MemberState.STARTING),
        member("d", 4, pool="another"),
        member("e", 5),
    ]
    heirs = Heirs()
    assert {heirs.choose(members, TOPIC, pool=POOL) for _ in range(10)} == {5}


def test_who_has_just_lost_its_lease_inherits_nothing() -> None:
    members = [member("a", 1), member("b", 2)]
    dead = {Incarnation("a.a")}
    assert {Heirs().choose(members, TOPIC, pool=POOL, without=dead) for _ in range(4)} == {2}


def test_with_nobody_known_the_key_decides() -> None:
    heirs = Heirs()
    assert heirs.choose([], TOPIC, pool=POOL) is None
    assert heirs.choose([member("a")], TOPIC, pool=POOL) is None, "between two assignments"


def test_many_copies_are_spread_over_workers_and_partitions() -> None:
    heirs, members = Heirs(), [member("a", 0, 1), member("b", 2, 3)]
    chosen = Counter(heirs.choose(members, TOPIC, pool=POOL) for _ in range(40))
    assert chosen == {0: 10, 1: 10, 2: 10, 3: 10}


def test_the_less_loaded_worker_gets_more_and_its_next_heartbeat_counts_anew() -> None:
    heirs = Heirs()
    members = [member("a", 0, running_requests=4), member("b", 1, running_requests=0)]
    assert [heirs.choose(members, TOPIC, pool=POOL) for _ in range(4)] == [1, 1, 1, 1]
    later = [member("a", 0, running_requests=4), member("b", 1, running_requests=4, number=2)]
    assert heirs.choose(later, TOPIC, pool=POOL) == 0 or heirs.choose(later, TOPIC, pool=POOL) == 0
