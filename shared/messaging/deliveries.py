"""Bookkeeping of what a request source handed out: in flight, finished, across assignments. Pure: no Kafka.

A rebalance takes partitions away and may bring them back while their records are still being worked on. Handing such
a record out again would run it twice; forgetting that it was finished would run it again. So deliveries are remembered
by partition, offset *and timestamp* (a topic deleted and made anew repeats its offsets, not its timestamps).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from aiokafka.structs import TopicPartition

from shared.messaging.offset_tracker import Arrival, OffsetTracker
from shared.messaging.records import SourceRecord

_REMEMBERED_LIMIT = 100_000
_MOST_WAITING = 2_000
"""Records that wait for others of their key and take no room; more of them do."""


class Delivery:
    """A record handed out once. Whoever got it calls `done()` when its work is over, in whatever order."""

    __slots__ = ("_is_done", "_on_done", "_on_wait", "epoch", "is_waiting", "received_at", "record")

    def __init__(
        self,
        record: SourceRecord,
        *,
        epoch: int,
        received_at: float,
        on_done: "Callable[[Delivery], None]",
        on_wait: Callable[[bool], None],
    ) -> None:
        self.record = record
        self.epoch = epoch
        self.received_at = received_at
        self.is_waiting = False
        self._on_done = on_done
        self._on_wait = on_wait
        self._is_done = False

    @property
    def is_done(self) -> bool:
        return self._is_done

    def done(self) -> None:
        """The record's offset is finished. Idempotent; harmless after its partition went to somebody else."""
        if not self._is_done:
            self._is_done = True
            self.wait_turn(False)
            self._on_done(self)

    def wait_turn(self, is_waiting: bool) -> None:
        """It waits for another record, not for whoever got it."""
        if is_waiting != self.is_waiting:
            self.is_waiting = is_waiting
            self._on_wait(is_waiting)


@dataclass(frozen=True, slots=True)
class CommitOffset:
    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class KnownCommit:
    """What Kafka says of a partition: the first unfinished offset, and the finished ones above it."""

    offset: int
    finished: frozenset[int] = frozenset()


class DeliveryBook:
    """One per source. Trackers live for one assignment (epoch); deliveries outlive it."""

    def __init__(self, on_done: Callable[[], None] = lambda: None) -> None:
        """`on_done` is called after every completion."""
        self.epoch = 0
        self._on_done = on_done
        self._trackers: dict[TopicPartition, OffsetTracker] = {}
        self._in_flight: dict[tuple[str, int, int], Delivery] = {}
        self._in_flight_by_topic: dict[str, int] = {}
        self._num_waiting = 0
        self._finished_elsewhere: dict[tuple[str, int, int], int] = {}
        """Finished while their partition was not ours (or not yet read again) -> the record's timestamp."""
        self._committed: dict[TopicPartition, CommitOffset] = {}
        self._changed: set[TopicPartition] = set()
        self._confirmed: set[TopicPartition] = set()
        """Of these, Kafka was asked a second time for their commit, right before ours."""

    # ------------------------------------------------------------------ assignment

    def revoke(self) -> None:
        """All partitions are gone (the rebalance protocol is eager). Deliveries stay in flight."""
        self.epoch += 1
        self._trackers.clear()
        self._committed.clear()
        self._changed.clear()
        self._confirmed.clear()

    def assign(self, commits: Mapping[TopicPartition, KnownCommit]) -> None:
        """Begins nothing anew by itself. Without a commit the first record makes the tracker: where a log begins only
        Kafka knows."""
        for partition, commit in commits.items():
            self._trackers[partition] = OffsetTracker(commit.offset, commit.finished)
            self._committed[partition] = CommitOffset(commit.offset, "")
            self._forget_committed(partition, commit.offset)

    def unconfirmed(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        """Those of which Kafka is to be asked once more before anything is committed."""
        return set(partitions) - self._confirmed

    def confirm(
        self, asked: Iterable[TopicPartition], commits: Mapping[TopicPartition, KnownCommit]
    ) -> dict[TopicPartition, int]:
        """The second answer. Returns where reading has to go on, for the partitions that were begun too early."""
        skipped: dict[TopicPartition, int] = {}
        for partition in asked:
            self._confirmed.add(partition)
            tracker, commit = self._trackers.get(partition), commits.get(partition)
            if tracker is None or commit is None or commit.offset <= tracker.commit_point:
                continue
            if commit.offset > tracker.position:
                skipped[partition] = commit.offset
            tracker.advance(commit.offset, commit.finished)
            self._committed[partition] = CommitOffset(commit.offset, "")
            self._changed.add(partition)
            self._forget_committed(partition, commit.offset)
        return skipped

    def _forget_committed(self, partition: TopicPartition, committed: int) -> None:
        passed = [key for key in self._finished_elsewhere if key[:2] == tuple(partition) and key[2] < committed]
        for key in passed:
            del self._finished_elsewhere[key]

    # ------------------------------------------------------------------ records

    def arrived(self, record: SourceRecord, partition: TopicPartition, *, received_at: float) -> Delivery | None:
        """A record was read; None when it must not be handed out (again)."""
        tracker = self._trackers.get(partition)
        if tracker is None:
            tracker = self._trackers[partition] = OffsetTracker(record.offset)
        arrival = tracker.started(record.offset)
        if arrival is Arrival.REWOUND:
            # Kafka lost the end of the log and began again: these records are new whatever their offsets say.
            tracker = self._trackers[partition] = OffsetTracker(record.offset)
            self._committed.pop(partition, None)
            self._confirmed.discard(partition)
            arrival = tracker.started(record.offset)
        if arrival is not Arrival.NEW:
            self._changed.add(partition)
            return None
        key = (record.topic, record.partition, record.offset)
        held = self._in_flight.get(key)
        if held is not None and held.record.timestamp_ms == record.timestamp_ms:
            return None
        if self._finished_elsewhere.pop(key, None) == record.timestamp_ms:
            tracker.finished(record.offset)
            self._changed.add(partition)
            return None
        delivery = Delivery(record, epoch=self.epoch, received_at=received_at, on_done=self._done, on_wait=self._waits)
        if held is None:
            self._in_flight_by_topic[record.topic] = self._in_flight_by_topic.get(record.topic, 0) + 1
        self._in_flight[key] = delivery
        return delivery

    def _done(self, delivery: Delivery) -> None:
        record = delivery.record
        key = (record.topic, record.partition, record.offset)
        if self._in_flight.get(key) is not delivery:
            return  # the topic was made anew meanwhile: another record has this offset
        del self._in_flight[key]
        self._in_flight_by_topic[record.topic] -= 1
        partition = TopicPartition(record.topic, record.partition)
        tracker = self._trackers.get(partition)
        if tracker is not None and tracker.finished(record.offset):
            self._changed.add(partition)
        elif tracker is None or not tracker.is_finished(record.offset):
            self._remember(key, record.timestamp_ms)
        self._on_done()

    def _waits(self, is_waiting: bool) -> None:
        self._num_waiting += 1 if is_waiting else -1

    def _remember(self, key: tuple[str, int, int], timestamp_ms: int) -> None:
        if len(self._finished_elsewhere) >= _REMEMBERED_LIMIT:
            del self._finished_elsewhere[next(iter(self._finished_elsewhere))]
        self._finished_elsewhere[key] = timestamp_ms

    def is_in_flight(self, topic: str, partition: int, offset: int) -> bool:
        return (topic, partition, offset) in self._in_flight

    # ------------------------------------------------------------------ commits

    def offsets_to_commit(self, assigned: Collection[TopicPartition]) -> dict[TopicPartition, CommitOffset]:
        """What changed since the last successful commit; never a lower offset than the one committed."""
        changed: dict[TopicPartition, CommitOffset] = {}
        for partition in self._changed:
            tracker = self._trackers.get(partition)
            if tracker is None or partition not in assigned:
                continue
            offset = CommitOffset(tracker.commit_point, tracker.metadata())
            before = self._committed.get(partition)
            if offset == before:
                continue
            assert before is None or offset.offset >= before.offset, f"{partition} would be committed backwards"
            changed[partition] = offset
        return changed

    def committed(self, offsets: Mapping[TopicPartition, CommitOffset], *, epoch: int) -> None:
        """These are in Kafka now. An answer that belongs to an earlier assignment says nothing about this one."""
        if epoch != self.epoch:
            return
        self._committed.update(offsets)
        for partition, offset in offsets.items():
            tracker = self._trackers.get(partition)
            if tracker is not None and offset == CommitOffset(tracker.commit_point, tracker.metadata()):
                self._changed.discard(partition)

    # ------------------------------------------------------------------ views

    @property
    def in_flight_count(self) -> int:
        return len(self._in_flight)

    @property
    def num_working(self) -> int:
        """In flight, without those that only wait for another record; of these, only so many are left out."""
        return len(self._in_flight) - min(self._num_waiting, _MOST_WAITING)

    def in_flight_of(self, topics: Iterable[str]) -> int:
        return sum(self._in_flight_by_topic.get(topic, 0) for topic in topics)

    def fill_ratio(self, partition: TopicPartition) -> float:
        tracker = self._trackers.get(partition)
        return 0.0 if tracker is None else tracker.fill_ratio

    def position(self, partition: TopicPartition) -> int | None:
        """The next offset to be read, where it is known."""
        tracker = self._trackers.get(partition)
        return None if tracker is None else tracker.position

    def oldest_received_at(self) -> float | None:
        return min((delivery.received_at for delivery in self._in_flight.values()), default=None)
