"""The request source: raw aiokafka, one consumer group, several topics in order of priority.

It polls without ever waiting for work, hands records out, and commits the first unfinished offset of each partition
with a bitset of the finished ones above it. It knows nothing of requests: values and headers stay bytes.

Traps it is built around: `getone()` cancelled disables the liveness check, so `getmany(timeout_ms=...)`;
`pause()` is forgotten at every rebalance; the same consumer gets its own uncommitted records again; `committed()`
drops metadata; a listener that blocks keeps the heartbeats from starting.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from shared.contracts.errors import BrokerUnavailable
from shared.messaging.assignment import sticky_assignor
from shared.messaging.commit_reading import CommitReader
from shared.messaging.commit_writer import CommitWriter
from shared.messaging.connection import connection_arguments
from shared.messaging.deliveries import Delivery, DeliveryBook
from shared.messaging.intake_room import IntakeRoom
from shared.messaging.lag import waiting_records
from shared.messaging.records import SourceRecord, source_record
from shared.settings.kafka import KafkaSettings

Deliver = Callable[[Delivery], Awaitable[None] | None]

_LOG = structlog.get_logger(__name__)
_FETCH_MAX_WAIT_MS = 100
"""How long an empty fetch lingers at the broker; also how long a resumed partition may wait for its first fetch."""
_METADATA_MAX_AGE_MS = 30_000
_MAX_REST_SECONDS = 30.0
"""Then it is looked at again, whatever a record says of its time."""
_STOP_SECONDS = 10.0
_RETRY_SECONDS = 0.2
_FULL_RATIO = 0.75
_PARTITION_FETCH_BYTES = 524_288
"""Bounds what a saturated source buffers; Kafka returns a larger single record all the same."""
_NO_PARTITION = TopicPartition("", 0)
"""Polling this one proves that we live, and reads nothing."""


class RequestSource:
    """`async with RequestSource(...) as source: await source.run(deliver)`; `stop_intake()` first when draining."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        group: str,
        topics: Sequence[str],
        client_id: str,
        high_mark: int,
        low_mark: int | None = None,
        high_marks: Sequence[int] | None = None,
        hold_back: Callable[[SourceRecord], float] = lambda record: 0.0,
        group_instance_id: str | None = None,
        poll_timeout_ms: int = 100,
        commit_interval_ms: int = 200,
        max_records_per_poll: int = 500,
    ) -> None:
        """`topics` most urgent first. At `high_mark` records in flight nothing more is taken until `low_mark`.

        `high_marks`, one per topic, stop a less urgent topic earlier: bulk then never fills the room that
        interactive requests need. `hold_back` says in how many seconds a record is due: until then it stays in Kafka,
        and its partition with it is paused.
        """
        if high_marks is not None and len(high_marks) != len(topics):
            raise ValueError("high_marks needs one mark per topic")
        self._settings = settings
        self._group = group
        self._topics = tuple(topics)
        self._room = IntakeRoom(
            high_marks or (high_mark,) * len(self._topics),
            low_ratio=0.75 if low_mark is None else low_mark / high_mark,
        )
        self._client_id = client_id
        self._group_instance_id = group_instance_id
        self._poll_timeout_ms = poll_timeout_ms
        self._commit_interval_seconds = commit_interval_ms / 1000
        self._max_records_per_poll = max_records_per_poll

        self._book = DeliveryBook(self._record_done)
        self._assigned: dict[str, tuple[TopicPartition, ...]] = {}
        self._is_loaded = True
        self._is_paused_by_caller = False
        self._is_intake_stopped = False
        self._full_partitions: set[TopicPartition] = set()
        self._resting: dict[TopicPartition, float] = {}
        """Partitions of which nothing is due, and until when (monotonic)."""
        self._hold_back = hold_back
        self._room_appeared = asyncio.Event()
        self._is_closing = False
        self._last_poll_at = time.monotonic()
        self._reader = CommitReader(self._admin_or_fail, group=group)
        self._commits = CommitWriter(
            self._book,
            group=group,
            reader=self._reader,
            consumer=self._consumer_or_fail,
            assigned=self._all_assigned,
        )
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None

    # ------------------------------------------------------------------ lifetime

    async def __aenter__(self) -> Self:
        session_ms = self._settings.session_timeout_ms
        consumer = AIOKafkaConsumer(
            group_id=self._group,
            client_id=self._client_id,
            group_instance_id=self._group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 40,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=300_000,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
            metadata_max_age_ms=_METADATA_MAX_AGE_MS,
            partition_assignment_strategy=(sticky_assignor(),),
            **connection_arguments(self._settings),
        )
        self._admin = AIOKafkaAdminClient(
            client_id=f"{self._client_id}-offsets",
            request_timeout_ms=5_000,
            **connection_arguments(self._settings),
        )
        try:
            await consumer.start()
            await self._admin.start()
        except (KafkaError, OSError) as error:
            await consumer.stop()
            await self._admin.close()
            raise BrokerUnavailable(f"no broker answers at {self._settings.bootstrap_servers}") from error
        self._consumer = consumer
        consumer.subscribe(topics=self._topics, listener=_Listener(self))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        await self.commit_now()
        with contextlib.suppress(KafkaError, TimeoutError, OSError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._consumer_or_fail().stop()
        await self._admin_or_fail().close()

    # ------------------------------------------------------------------ polling

    async def run(self, deliver: Deliver) -> None:
        """Poll until the context is left. `deliver` must be quick: it puts the delivery somewhere and returns."""
        async with asyncio.TaskGroup() as tasks:
            commits = tasks.create_task(self._commit_regularly())
            try:
                while not self._is_closing:
                    await self._poll_once(deliver)
            finally:
                commits.cancel()

    async def _poll_once(self, deliver: Deliver) -> None:
        try:
            if not self._is_loaded:
                await self._load_assignment()
            if self._is_reading:
                await self._read(deliver)
            else:
                await self._poll_without_reading()
        except (KafkaError, IllegalStateError) as error:
            _LOG.warning("kafka poll failed", group=self._group, error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)
        self._last_poll_at = time.monotonic()

    @property
    def _is_reading(self) -> bool:
        return self._is_loaded and not (
            self._is_paused_by_caller or self._is_intake_stopped or self._room.is_all_closed
        )

    async def _poll_without_reading(self) -> None:
        """Saturated or paused: stay a member, keep what was fetched, and wake up as soon as there is room."""
        self._room_appeared.clear()
        await self._consumer_or_fail().getmany(_NO_PARTITION, timeout_ms=0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_timeout_ms / 1000):
                await self._room_appeared.wait()

    async def _read(self, deliver: Deliver) -> None:
        """Drain what is buffered, topic by topic in order of priority; wait for more only if there was nothing."""
        consumer = self._consumer_or_fail()
        epoch, has_read = self._book.epoch, False
        for index, topic in enumerate(self._topics):
            room = min(self._room.room(index, self._book.num_working), self._max_records_per_poll)
            partitions = self._open_partitions(topic)
            if room <= 0 or not partitions or self._book.epoch != epoch:
                continue
            batches = await consumer.getmany(*partitions, timeout_ms=0, max_records=room)
            has_read = has_read or bool(batches)
            await self._hand_out(batches, deliver)
        if not has_read:
            # One record, so that the next round can choose by priority again.
            waited_for = [
                partition
                for index, topic in enumerate(self._topics)
                if not self._room.is_closed(index)
                for partition in self._open_partitions(topic)
            ] or [_NO_PARTITION]
            batches = await consumer.getmany(*waited_for, timeout_ms=self._poll_timeout_ms, max_records=1)
            await self._hand_out(batches, deliver)

    def _open_partitions(self, topic: str) -> tuple[TopicPartition, ...]:
        assigned = self._assigned.get(topic, ())
        if self._resting:
            self._wake_rested()
            assigned = tuple(partition for partition in assigned if partition not in self._resting)
        if not self._full_partitions:
            return assigned
        self._full_partitions = {
            partition for partition in self._full_partitions if self._book.fill_ratio(partition) >= _FULL_RATIO
        }
        return tuple(partition for partition in assigned if partition not in self._full_partitions)

    def _rest(self, partition: TopicPartition, offset: int, seconds: float) -> None:
        """Nothing from this offset on is read before its time."""
        consumer = self._consumer_or_fail()
        consumer.seek(partition, offset)
        consumer.pause(partition)
        self._resting[partition] = time.monotonic() + min(seconds, _MAX_REST_SECONDS)

    def _wake_rested(self) -> None:
        now = time.monotonic()
        rested = [partition for partition, until in self._resting.items() if until <= now]
        for partition in rested:
            del self._resting[partition]
        if rested:
            self._consumer_or_fail().resume(*rested)

    async def _hand_out(self, batches: dict[TopicPartition, list[Any]], deliver: Deliver) -> None:
        """No rebalance can come between `getmany` and here: there is no await between them."""
        if not self._is_loaded:  # a rebalance came while we waited: they are read again once its commits are known
            for partition, records in batches.items():
                self._consumer_or_fail().seek(partition, records[0].offset)
            return
        if not batches:
            return
        now = time.monotonic()
        deliveries = []
        for partition, records in batches.items():
            for record in map(source_record, records):
                if (seconds := self._hold_back(record)) > 0:
                    self._rest(partition, record.offset, seconds)
                    break
                delivery = self._book.arrived(record, partition, received_at=now)
                if delivery is not None:
                    deliveries.append(delivery)
            if self._book.fill_ratio(partition) >= _FULL_RATIO:
                self._full_partitions.add(partition)
        self._room.update(self._book.num_working)
        for delivery in deliveries:
            pending = deliver(delivery)
            if pending is not None:
                await pending
        self._room.update(self._book.num_working)  # some of them may only wait for others

    def _record_done(self) -> None:
        if self._room.is_any_closed:
            self._room.update(self._book.num_working)
            if self._is_reading:
                self._room_appeared.set()

    # ------------------------------------------------------------------ rebalances

    async def _partitions_revoked(self) -> None:
        """Called by aiokafka before it joins anew; it waits for us, so this is the last commit of the generation."""
        await self.commit_now()
        self._commits.give_up()
        self._assigned = {}
        self._full_partitions.clear()
        self._resting.clear()
        self._book.revoke()
        self._is_loaded = False

    def _partitions_assigned(self, partitions: set[TopicPartition]) -> None:
        """Must return at once: until it does, no heartbeat is sent. Reading starts when the metadata was loaded."""
        by_topic: dict[str, list[TopicPartition]] = {}
        for partition in sorted(partitions):
            by_topic.setdefault(partition.topic, []).append(partition)
        self._assigned = {topic: tuple(found) for topic, found in by_topic.items()}
        self._is_loaded = False
        _LOG.info("partitions assigned", group=self._group, epoch=self._book.epoch, count=len(partitions))

    async def _load_assignment(self) -> None:
        """Read the commits with their metadata, which the consumer itself drops."""
        epoch, partitions = self._book.epoch, self._all_assigned()
        if not partitions:
            self._is_loaded = True
            return
        commits = await self._reader.read(partitions)
        if commits is None or self._book.epoch != epoch or self._all_assigned() != partitions:
            return
        self._book.assign(commits)
        for partition, commit in commits.items():  # the consumer asked for itself, and may have been told otherwise
            self._consumer_or_fail().seek(partition, commit.offset)
        self._is_loaded = True

    def _all_assigned(self) -> list[TopicPartition]:
        return [partition for partitions in self._assigned.values() for partition in partitions]

    # ------------------------------------------------------------------ commits

    async def _commit_regularly(self) -> None:
        while not self._is_closing:
            await asyncio.sleep(self._commit_interval_seconds)
            await self.commit_now()

    async def commit_now(self) -> None:
        """Commit what changed. A failure is logged: the next commit carries the same and more."""
        await self._commits.commit_now()

    # ------------------------------------------------------------------ flow control and views

    def pause_intake(self) -> None:
        """Hand out nothing more; polling, membership and commits go on, through rebalances too."""
        self._is_paused_by_caller = True

    def resume_intake(self) -> None:
        self._is_paused_by_caller = False
        self._room_appeared.set()

    async def stop_intake(self) -> None:
        self._is_intake_stopped = True

    def is_in_flight(self, topic: str, partition: int, offset: int) -> bool:
        return self._book.is_in_flight(topic, partition, offset)

    @property
    def in_flight_count(self) -> int:
        return self._book.in_flight_count

    @property
    def epoch(self) -> int:
        return self._book.epoch

    @property
    def assignment(self) -> list[tuple[str, int]]:
        return [(partition.topic, partition.partition) for partition in self._all_assigned()]

    @property
    def last_poll_age_seconds(self) -> float:
        return time.monotonic() - self._last_poll_at

    @property
    def oldest_unfinished_age_seconds(self) -> float:
        received_at = self._book.oldest_received_at()
        return 0.0 if received_at is None else time.monotonic() - received_at

    async def measure_lag(self) -> dict[str, int] | None:
        """Records per topic that wait in Kafka in our partitions; None while these change hands, and nobody knows what
        of them was read. Asks the broker, so not for every heartbeat."""
        epoch = self._book.epoch
        if not self._is_loaded:
            return None
        lag = await waiting_records(self._consumer_or_fail(), self._all_assigned(), self._book.position)
        if not self._is_loaded or self._book.epoch != epoch:
            return None
        return {topic: lag.get(topic, 0) for topic in self._topics}

    def _consumer_or_fail(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError("the source is used outside its context")
        return self._consumer

    def _admin_or_fail(self) -> AIOKafkaAdminClient:
        if self._admin is None:
            raise RuntimeError("the source is used outside its context")
        return self._admin


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: RequestSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._source._partitions_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._source._partitions_assigned(assigned)
