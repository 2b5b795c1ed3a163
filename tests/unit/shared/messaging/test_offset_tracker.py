"""The offset tracker's corners, one by one."""

import base64

from shared.messaging.offset_tracker import (
    METADATA_LIMIT_CHARACTERS,
    Arrival,
    OffsetTracker,
    decode_finished,
    encode_finished,
)


def test_a_fresh_tracker_commits_where_it_began() -> None:
    tracker = OffsetTracker(17)
    assert (tracker.commit_point, tracker.metadata(), tracker.fill_ratio) == (17, "", 0.0)


def test_a_record_read_twice_in_one_assignment_is_still_in_flight() -> None:
    tracker = OffsetTracker(0)
    assert tracker.started(0) is Arrival.NEW
    assert tracker.started(0) is Arrival.IN_FLIGHT


def test_an_offset_below_what_was_read_says_that_the_log_was_rewound() -> None:
    tracker = OffsetTracker(0)
    tracker.started(5)
    tracker.finished(5)
    assert tracker.started(3) is Arrival.REWOUND


def test_a_gap_in_the_log_does_not_hold_the_commit_point_back() -> None:
    tracker = OffsetTracker(0)
    tracker.started(3)
    assert tracker.commit_point == 3
    tracker.started(9)
    tracker.finished(3)
    assert tracker.commit_point == 9


def test_what_was_finished_before_a_restart_is_passed_when_it_is_read_again() -> None:
    tracker = OffsetTracker(10, {11, 12})
    assert [tracker.started(offset) for offset in (10, 11, 12)] == [
        Arrival.NEW,
        Arrival.FINISHED,
        Arrival.FINISHED,
    ]
    tracker.finished(10)
    assert (tracker.commit_point, tracker.metadata()) == (13, "")


def test_finished_offsets_not_read_again_yet_stay_in_the_metadata() -> None:
    tracker = OffsetTracker(10, {12, 14})
    tracker.started(10)
    tracker.finished(10)
    assert tracker.commit_point == 11
    assert decode_finished(11, tracker.metadata()) == {12, 14}


def test_the_fill_ratio_grows_with_the_distance_between_the_oldest_and_the_newest() -> None:
    tracker = OffsetTracker(0)
    for offset in range(20_000):
        tracker.started(offset)
    assert 0.75 < tracker.fill_ratio < 1
    tracker.finished(0)
    for offset in range(1, 10_000):
        tracker.finished(offset)
    assert tracker.fill_ratio < 0.75


def test_what_fits_into_the_metadata_at_a_fill_ratio_of_one_is_all_kept() -> None:
    tracker = OffsetTracker(0)
    offset = 0
    while tracker.fill_ratio < 1:
        tracker.started(offset)
        offset += 1
    for finished in range(1, offset):
        tracker.finished(finished)
    assert len(tracker.metadata()) <= METADATA_LIMIT_CHARACTERS
    assert decode_finished(0, tracker.metadata()) == set(range(1, offset))


def test_damaged_metadata_means_that_nothing_is_known_to_be_finished() -> None:
    good = encode_finished(0, {1, 5})
    assert decode_finished(0, good) == {1, 5}
    for damaged in (None, "", "p1", good[1:], good + "!", "p2:" + base64.b64encode(b"\xff").decode()):
        assert decode_finished(0, damaged) == frozenset()
