"""Which member of a group gets which partition: sticky, so that a lost worker moves its own partitions only.

The library's sticky assignor balances the sum over all topics: a worker that joins may be given the resume topic's
partitions and not one of the interactive lane's, and then it idles. Ours balances each topic by itself and keeps the
library's memory and wire format. That memory is kept in class attributes, so that two consumers of one process would
share it; each source therefore gets a class of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment


def sticky_assignor() -> type[StickyPartitionAssignor]:
    """A fresh assignor class for one consumer."""
    return type(
        "StickyPartitionAssignor",
        (_StickyByTopic,),
        {"member_assignment": None, "_latest_partition_movements": None},
    )


def shared_out(
    partitions: Sequence[int], owned: Mapping[str, Sequence[int]], load: Mapping[str, int]
) -> dict[str, list[int]]:
    """The partitions of one topic by member: within one of each other, as few moved as that allows.

    `owned` has every member with what it held before (twice claimed: the first member keeps it). Who holds more
    already keeps more; among equals who has the smaller `load` of other topics.
    """
    free = set(partitions)
    kept: dict[str, list[int]] = {}
    for member, held in sorted(owned.items()):
        kept[member] = sorted(free.intersection(held))
        free.difference_update(kept[member])
    fewest, num_longer = divmod(len(partitions), len(owned))
    order = sorted(owned, key=lambda member: (-len(kept[member]), load.get(member, 0), member))
    quota = {member: fewest + (index < num_longer) for index, member in enumerate(order)}
    for member, held in kept.items():
        free.update(held[quota[member] :])
        del held[quota[member] :]
    left = iter(sorted(free))
    for member in order:
        kept[member] += [next(left) for _ in range(quota[member] - len(kept[member]))]
    return {member: sorted(held) for member, held in kept.items()}


class _StickyByTopic(StickyPartitionAssignor):  # type: ignore[misc]
    @classmethod
    def assign(cls, cluster: Any, members: Mapping[str, Any]) -> dict[str, ConsumerProtocolMemberAssignment]:
        known = {member: cls.parse_member_metadata(metadata) for member, metadata in members.items()}
        load: Counter[str] = Counter()
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({topic for metadata in known.values() for topic in metadata.subscription}):
            owned = {
                member: [partition.partition for partition in metadata.partitions if partition.topic == topic]
                for member, metadata in known.items()
                if topic in metadata.subscription
            }
            partitions = sorted(cluster.partitions_for_topic(topic) or ())
            for member, share in shared_out(partitions, owned, load).items():
                load[member] += len(share)
                if share:
                    given[member].append((topic, share))
        return {member: ConsumerProtocolMemberAssignment(cls.version, shares, b"") for member, shares in given.items()}
