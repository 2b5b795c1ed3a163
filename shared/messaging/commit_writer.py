"""Commits the offsets of one group's partitions, one commit at a time. Knows no records.

aiokafka retries a commit for ever, with the generation of the day: one that is still under way when the partitions are
revoked could undo what their next owner commits, so it can be given up.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from shared.messaging.deliveries import DeliveryBook
from shared.telemetry.round_trips import timed

_LOG = structlog.get_logger(__name__)
_COMMIT_SECONDS = 3.0


class CommitWriter:
    def __init__(
        self,
        book: DeliveryBook,
        *,
        group: str,
        consumer: Callable[[], Any],
        assigned: Callable[[], list[TopicPartition]],
    ) -> None:
        self._book = book
        self._group = group
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
            offsets = self._book.offsets_to_commit(frozenset(self._assigned()))
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
            self._book.committed(offsets, epoch=epoch)
