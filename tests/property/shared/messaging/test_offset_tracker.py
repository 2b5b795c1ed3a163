"""The offset tracker under random completion orders, gaps, restarts and rebalances."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.messaging.offset_tracker import (
    METADATA_LIMIT_CHARACTERS,
    Arrival,
    OffsetTracker,
    decode_finished,
    encode_finished,
)


@given(start=st.integers(0, 10**12), distances=st.sets(st.integers(1, 20_000), max_size=300))
def test_finished_offsets_survive_the_round_trip_through_metadata(start: int, distances: set[int]) -> None:
    finished = {start + distance for distance in distances}
    metadata = encode_finished(start, finished)
    assert len(metadata) <= METADATA_LIMIT_CHARACTERS
    assert decode_finished(start, metadata) == finished


@given(distances=st.sets(st.integers(1, 10**6), max_size=100))
def test_metadata_never_exceeds_its_limit_and_never_claims_what_was_not_finished(distances: set[int]) -> None:
    metadata = encode_finished(0, distances)
    assert len(metadata) <= METADATA_LIMIT_CHARACTERS
    assert decode_finished(0, metadata) <= distances


@given(metadata=st.text(max_size=50))
def test_foreign_metadata_is_read_as_nothing_finished_or_a_bitmap_but_never_raises(metadata: str) -> None:
    assert all(offset > 7 for offset in decode_finished(7, metadata))
    assert decode_finished(7, "other:" + metadata) == frozenset()


@settings(max_examples=200)
@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=60),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_order_of_completion_the_commit_point_is_the_first_unfinished_offset(gaps, order) -> None:  # type: ignore[no-untyped-def]
    offsets = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    tracker = OffsetTracker(0)
    assert [tracker.started(offset) for offset in offsets] == [Arrival.NEW] * len(offsets)
    unfinished = list(offsets)
    order.shuffle(unfinished)
    while unfinished:
        tracker.finished(unfinished.pop())
        expected = min(unfinished) if unfinished else offsets[-1] + 1
        assert tracker.commit_point == expected
        assert decode_finished(expected, tracker.metadata()) == {
            offset for offset in offsets if offset > expected and offset not in unfinished
        }


class PartitionThroughRestarts(RuleBasedStateMachine):
    """One partition; its owner reads, finishes out of order, commits, and is replaced at any moment."""

    @initialize()
    def begin(self) -> None:
        self.log = 0
        """Offsets 0..log-1 exist."""
        self.done: set[int] = set()
        self.committed = (0, "")
        self.start_owner()

    def start_owner(self) -> None:
        offset, metadata = self.committed
        self.tracker = OffsetTracker(offset, decode_finished(offset, metadata))
        self.next_read = offset
        self.in_flight: set[int] = set()
        self.known_done = {done for done in self.done if done < offset} | decode_finished(offset, metadata)

    @rule(count=st.integers(1, 5))
    def post(self, count: int) -> None:
        self.log += count

    @precondition(lambda self: self.next_read < self.log)
    @rule(gap=st.integers(0, 1))
    def read(self, gap: int) -> None:
        offset = min(self.next_read + gap, self.log - 1)
        if gap and self.next_read < offset:
            self.done.add(self.next_read)  # compacted away: nobody will ever see it
            self.known_done.add(self.next_read)
        arrival = self.tracker.started(offset)
        assert (arrival is Arrival.FINISHED) == (offset in self.known_done)
        if arrival is Arrival.NEW:
            self.in_flight.add(offset)
        self.next_read = offset + 1

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.in_flight)))
        assert self.tracker.finished(offset)
        assert not self.tracker.finished(offset)
        assert self.tracker.is_finished(offset)
        self.in_flight.discard(offset)
        self.done.add(offset)
        self.known_done.add(offset)

    @rule()
    def commit(self) -> None:
        before = self.committed[0]
        self.committed = (self.tracker.commit_point, self.tracker.metadata())
        assert self.committed[0] >= before

    @rule(offset=st.integers(0, 100))
    def a_stranger_finishes_something_that_is_not_in_flight_here(self, offset: int) -> None:
        if offset not in self.in_flight:
            point, metadata = self.tracker.commit_point, self.tracker.metadata()
            assert not self.tracker.finished(offset)
            assert (self.tracker.commit_point, self.tracker.metadata()) == (point, metadata)

    @rule()
    def restart(self) -> None:
        self.start_owner()

    @invariant()
    def nothing_unfinished_is_ever_committed_over(self) -> None:
        offset, metadata = self.committed
        assert all(passed in self.done for passed in range(offset))
        assert decode_finished(offset, metadata) <= self.done
        assert all(passed in self.done for passed in range(self.tracker.commit_point))
        assert self.tracker.in_flight_count == len(self.in_flight)


TestPartitionThroughRestarts = PartitionThroughRestarts.TestCase
TestPartitionThroughRestarts.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
