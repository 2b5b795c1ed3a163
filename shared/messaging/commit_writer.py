"""Commits the offsets of one group's partitions, one commit at a time. Knows no records.

aiokafka retries a commit for ever, with the generation of the day: one that is still under way when the partitions are
revoked could undo what their next owner commits, so it can be given up. And before the first commit of an assignment
Kafka is asked again what the commit is: the answer that reading began with may have been an old one.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from shared.messaging.commit_reading import CommitReader
from shared.messaging.deliveries import CommitOffset, DeliveryBook
from shared.telemetry.round_trips import timed

_LOG = structlog.get_logger(__name__)
_COMMIT_SECONDS = 3.0


class CommitWriter:
    def __init__(
        self,
        book: DeliveryBook,
        *,
        group: str,
        reader: CommitReader,
        consumer: Callable[[], Any],
        assigned: Callable[[], list[TopicPartition]],
    ) -> None:
        self._book = book
        self._group = group
        self._reader = reader
        self._consumer = consumer
        self._assigned = assigned
        self._lock = asyncio.Lock()
        self._under_way: asyncio.Future[None] | None = None

    async def commit_now(self) -> None:
        """Commit what changed. A failure is logged: the next commit carries the same and more."""
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):  # `wait_for` may swallow a cancellation in Python 3.11
                await self._commit()
        except TimeoutError:
            _LOG.warning("commit not answered", group=self._group)
        except CommitFailedError:
            _LOG.info("commit refused, the group rebalances", group=self._group)
        except (KafkaError, IllegalStateError) as error:
            _LOG.warning("commit failed", group=self._group, error=repr(error))

    def give_up(self) -> None:
        """Whatever is still under way must not reach Kafka any more."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def _commit(self) -> None:
        async with self._lock:
            epoch = self._book.epoch
            offsets = await self._offsets_to_commit(epoch)
            if not offsets:
                return
            payload = {
                partition: OffsetAndMetadata(commit.offset, commit.metadata) for partition, commit in offsets.items()
            }
            answer = timed("commit", self._consumer().commit(payload), KafkaError)
            self._under_way = asyncio.ensure_future(answer)
            try:
                await asyncio.wait({self._under_way})
            finally:
                commit, self._under_way = self._under_way, None
                commit.cancel()
            if commit.cancelled():
                return
            commit.result()
            self._reader.committed({partition: commit.offset for partition, commit in offsets.items()})
            self._book.committed(offsets, epoch=epoch)

    async def _offsets_to_commit(self, epoch: int) -> dict[TopicPartition, CommitOffset]:
        """Only of partitions of which Kafka's commit is beyond doubt."""
        offsets = self._book.offsets_to_commit(frozenset(self._assigned()))
        unconfirmed = self._book.unconfirmed(offsets)
        if not unconfirmed:
            return offsets
        commits = await self._reader.read(unconfirmed)
        if self._book.epoch != epoch:
            return {}
        if commits is None:
            return {partition: offset for partition, offset in offsets.items() if partition not in unconfirmed}
        higher = [partition for partition, commit in commits.items() if commit.offset > offsets[partition].offset]
        ends = await self._consumer().end_offsets(higher) if higher else {}
        if self._book.epoch != epoch:
            return {}
        for partition, end in ends.items():
            if end < commits[partition].offset:
                del commits[partition]  # the log lost its end, and its records are new ones
        for partition, offset in self._book.confirm(unconfirmed, commits).items():
            _LOG.warning(
                "reading had begun with an old commit",
                group=self._group,
                topic=partition.topic,
                partition=partition.partition,
                read_on_at=offset,
            )
            self._consumer().seek(partition, offset)
        return self._book.offsets_to_commit(frozenset(self._assigned()))
