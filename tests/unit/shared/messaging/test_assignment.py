"""Each topic is shared out evenly by itself, and a partition moves only when it has to."""

from typing import Any

from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from shared.messaging.assignment import shared_out, sticky_assignor

TOPICS = ("bulk", "interactive", "resume")


class FourPartitions:
    """A cluster in which every topic has four partitions."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1, 2, 3}


def a_member(*held: tuple[str, int]) -> Any:
    assignor = sticky_assignor()
    assignor.member_assignment = [TopicPartition(topic, partition) for topic, partition in held]
    return assignor.metadata(TOPICS)


def assigned(**members: Any) -> dict[str, dict[str, list[int]]]:
    found = sticky_assignor().assign(FourPartitions(), members)
    return {member: dict(assignment.assignment) for member, assignment in found.items()}


def test_a_newcomer_gets_its_share_of_every_topic_and_not_all_of_one() -> None:
    everything = [(topic, partition) for topic in TOPICS for partition in range(4)]
    shares = assigned(old=a_member(*everything), new=a_member())
    assert {topic: len(held) for topic, held in shares["new"].items()} == dict.fromkeys(TOPICS, 2)


def test_what_a_lost_member_held_goes_to_the_others_and_theirs_stays() -> None:
    shares = assigned(a=a_member(("interactive", 0), ("interactive", 1)), b=a_member(("interactive", 2)))
    assert shares["a"]["interactive"] == [0, 1]
    assert shares["b"]["interactive"] == [2, 3]


def test_members_that_never_held_anything_share_all() -> None:
    shares = assigned(a=a_member(), b=a_member(), c=a_member())
    sizes = [sum(map(len, held.values())) for held in shares.values()]
    assert sizes == [4, 4, 4], "the odd partition of each topic goes to another member"


def test_two_consumers_of_one_process_have_memories_of_their_own() -> None:
    first, second = sticky_assignor(), sticky_assignor()
    first.member_assignment = [TopicPartition("t", 0)]
    assert second.member_assignment is None


@given(
    owners=st.lists(st.sampled_from(["a", "b", "c", "d", "gone", ""]), max_size=12),
    members=st.sets(st.sampled_from("abcde"), min_size=1),
)
def test_every_partition_has_one_holder_and_none_moves_needlessly(owners: list[str], members: set[str]) -> None:
    held_before = {member: [p for p, owner in enumerate(owners) if owner == member] for member in members}
    shares = shared_out(range(len(owners)), held_before, {})
    assert sorted(partition for held in shares.values() for partition in held) == list(range(len(owners)))
    sizes = [len(held) for held in shares.values()]
    assert max(sizes) - min(sizes) <= 1
    for member, held in shares.items():
        kept = set(held_before[member]) & set(held)
        assert len(kept) >= min(len(held_before[member]), len(held)), "it lost what it might have kept"


def test_a_partition_that_two_members_claim_stays_with_one() -> None:
    assert shared_out([0, 1], {"a": [0, 1], "b": [0, 1]}, {}) == {"a": [0], "b": [1]}
