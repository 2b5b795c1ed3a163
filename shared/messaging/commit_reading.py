"""Reads the commits of one group's partitions, and doubts an answer that is older than what this process knows.

A coordinator that has just come back from a crash may tell, for a moment, of an older commit than the last one, or of
none. Who believes it begins again with records that were finished, and then commits a lower offset than Kafka had.
"""

from collections.abc import Callable, Collection, Mapping

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import TopicPartition

from shared.messaging.deliveries import KnownCommit
from shared.messaging.offset_tracker import decode_finished
from shared.resilience.clock import Clock, SystemClock

_LOG = structlog.get_logger(__name__)
_DOUBT_SECONDS = 10.0
"""Then it is true after all: the topic was made anew, or its commits were deleted."""


class CommitReader:
    def __init__(self, admin: Callable[[], AIOKafkaAdminClient], *, group: str, clock: Clock | None = None) -> None:
        self._admin = admin
        self._group = group
        self._clock = clock or SystemClock()
        self._highest: dict[TopicPartition, int] = {}
        self._doubted_since: dict[TopicPartition, float] = {}

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These are in Kafka: what it says of these partitions from now on is not lower."""
        for partition, offset in offsets.items():
            self._highest[partition] = max(offset, self._highest.get(partition, -1))

    async def read(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, KnownCommit] | None:
        """None: the answer is in doubt, ask again. Raises `KafkaError` if there is no answer."""
        found = await self._admin().list_consumer_group_offsets(self._group, partitions=list(partitions))
        if found.keys() < set(partitions):  # the admin client passes over an error of the whole answer
            raise GroupCoordinatorNotAvailableError
        offsets = {partition: int(committed.offset) for partition, committed in found.items()}
        in_doubt = [partition for partition, offset in offsets.items() if self._is_in_doubt(partition, offset)]
        if in_doubt:
            return None
        self._highest.update(offsets)
        return {
            partition: KnownCommit(committed.offset, decode_finished(committed.offset, committed.metadata))
            for partition, committed in found.items()
            if committed.offset >= 0
        }

    def _is_in_doubt(self, partition: TopicPartition, offset: int) -> bool:
        highest = self._highest.get(partition, -1)
        if offset >= highest:
            self._doubted_since.pop(partition, None)
            return False
        now = self._clock.monotonic()
        if partition not in self._doubted_since:
            _LOG.warning(
                "kafka tells of an older commit than its last",
                group=self._group,
                topic=partition.topic,
                partition=partition.partition,
                told=offset,
                last=highest,
            )
        if now - self._doubted_since.setdefault(partition, now) < _DOUBT_SECONDS:
            return True
        del self._doubted_since[partition]
        return False
