"""How much may be taken in, by topic."""

import pytest

from shared.messaging.intake_room import IntakeRoom


def test_a_topic_closes_at_its_mark_and_opens_again_well_below() -> None:
    room = IntakeRoom([8], low_ratio=0.5)
    room.update(7)
    assert not room.is_closed(0)
    room.update(8)
    assert room.is_closed(0)
    room.update(5)
    assert room.is_closed(0)
    room.update(4)
    assert not room.is_closed(0)


def test_the_less_urgent_topic_closes_first_and_leaves_room() -> None:
    room = IntakeRoom([10, 4])
    room.update(4)
    assert (room.is_closed(0), room.is_closed(1)) == (False, True)
    assert (room.room(0, 4), room.room(1, 4)) == (6, 0)
    assert room.is_any_closed
    assert not room.is_all_closed
    room.update(10)
    assert room.is_all_closed


def test_there_is_never_negative_room() -> None:
    assert IntakeRoom([3]).room(0, 5) == 0


def test_a_mark_of_one_opens_again_when_nothing_is_in_flight() -> None:
    room = IntakeRoom([1])
    room.update(1)
    room.update(0)
    assert room.room(0, 0) == 1


@pytest.mark.parametrize(("marks", "ratio"), [([], 0.5), ([0], 0.5), ([4], 1.0), ([4], -0.1)])
def test_impossible_marks_are_refused(marks: list[int], ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mark|low_ratio"):
        IntakeRoom(marks, low_ratio=ratio)
