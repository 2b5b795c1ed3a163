"""The delivery book against a model: partitions come and go, records are worked on meanwhile."""

from aiokafka.structs import TopicPartition
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.messaging.deliveries import CommitOffset, Delivery, DeliveryBook, KnownCommit
from shared.messaging.offset_tracker import decode_finished
from shared.messaging.records import SourceRecord

PARTITION = TopicPartition("topic", 0)


class OnePartitionThatMoves(RuleBasedStateMachine):
    """We own the partition or not; another owner may finish and commit records while we do not.

    An assignment may begin with an old commit, as a coordinator that was just started tells it; the second answer,
    before the first commit, is the true one.
    """

    @initialize()
    def begin(self) -> None:
        self.book = DeliveryBook()
        self.log_end = 0
        self.finished: set[int] = set()
        self.committed = CommitOffset(0, "")
        self.earlier = [self.committed]
        self.deliveries: dict[int, Delivery] = {}
        self.is_owner = False
        self.position = 0

    @rule(count=st.integers(1, 4))
    def post(self, count: int) -> None:
        self.log_end += count

    @precondition(lambda self: not self.is_owner)
    @rule(data=st.data())
    def assign(self, data: st.DataObject) -> None:
        told = _known(data.draw(st.sampled_from([self.committed, *self.earlier])))
        self.book.assign({PARTITION: told})
        self.position, self.is_owner = told.offset, True

    @precondition(lambda self: self.is_owner)
    @rule()
    def revoke(self) -> None:
        self.book.revoke()
        self.is_owner = False

    @precondition(lambda self: self.is_owner and self.position < self.log_end)
    @rule()
    def read(self) -> None:
        offset, self.position = self.position, self.position + 1
        record = SourceRecord(
            topic="topic", partition=0, offset=offset, timestamp_ms=offset, key=None, value=b"", headers=()
        )
        delivery = self.book.arrived(record, PARTITION, received_at=0.0)
        if delivery is None:
            assert offset in self.finished or offset in self.deliveries, f"{offset} was lost"
        else:
            assert offset not in self.deliveries, f"{offset} was handed out while in flight"
            assert delivery.epoch == self.book.epoch
            self.deliveries[offset] = delivery

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.deliveries)))
        delivery = self.deliveries.pop(offset)
        delivery.done()
        delivery.done()
        self.finished.add(offset)

    @precondition(lambda self: self.is_owner)
    @rule(is_answered=st.booleans())
    def commit(self, is_answered: bool) -> None:
        epoch = self.book.epoch
        if unconfirmed := self.book.unconfirmed(self.book.offsets_to_commit([PARTITION])):
            skipped = self.book.confirm(unconfirmed, {PARTITION: _known(self.committed)})
            self.position = skipped.get(PARTITION, self.position)
        for offset in self.book.offsets_to_commit([PARTITION]).values():
            assert offset.offset >= self.committed.offset
            self.committed = offset
            self.earlier.append(offset)
            if is_answered:
                self.book.committed({PARTITION: offset}, epoch=epoch)

    @precondition(lambda self: not self.is_owner)
    @rule(count=st.integers(1, 3))
    def another_owner_finishes_and_commits(self, count: int) -> None:
        offset = min(self.committed.offset + count, self.log_end)
        self.finished.update(range(self.committed.offset, offset))
        self.committed = CommitOffset(max(offset, self.committed.offset), "")
        self.earlier.append(self.committed)

    @invariant()
    def only_finished_records_are_committed_over(self) -> None:
        assert set(range(self.committed.offset)) <= self.finished
        assert decode_finished(self.committed.offset, self.committed.metadata) <= self.finished

    @invariant()
    def what_is_in_flight_is_known(self) -> None:
        assert self.book.in_flight_count == len(self.deliveries)
        assert self.book.in_flight_of(["topic"]) == len(self.deliveries)
        assert all(self.book.is_in_flight("topic", 0, offset) for offset in self.deliveries)


def _known(commit: CommitOffset) -> KnownCommit:
    return KnownCommit(commit.offset, decode_finished(commit.offset, commit.metadata))


TestOnePartitionThatMoves = OnePartitionThatMoves.TestCase
TestOnePartitionThatMoves.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
