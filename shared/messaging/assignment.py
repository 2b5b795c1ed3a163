"""Which member of a group gets which partition: sticky, so that a lost worker moves its own partitions only.

aiokafka's sticky assignor keeps its memory in class attributes, so that two consumers of one process would share it;
each source therefore gets a class of its own.
"""

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor


def sticky_assignor() -> type[StickyPartitionAssignor]:
    """A fresh assignor class for one consumer."""
    return type(
        "StickyPartitionAssignor",
        (StickyPartitionAssignor,),
        {"member_assignment": None, "_latest_partition_movements": None},
    )
