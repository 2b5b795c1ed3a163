import pytest

from shared.resilience.deadline import Deadline

NEVER = Deadline()


def test_a_deadline_has_passed_from_its_own_millisecond_on() -> None:
    deadline = Deadline(at_ms=1_000)
    assert not deadline.has_passed(999)
    assert deadline.has_passed(1_000)


def test_what_remains_is_never_negative() -> None:
    deadline = Deadline.after(2.5, now_ms=1_000)
    assert deadline == Deadline(at_ms=3_500)
    assert deadline.remaining_seconds(1_000) == 2.5
    assert deadline.remaining_seconds(9_000) == 0.0


def test_without_a_deadline_there_is_for_ever() -> None:
    assert not NEVER.has_passed(1 << 60)
    assert NEVER.remaining_seconds(0) is None


@pytest.mark.parametrize(
    ("one", "other", "earlier"),
    [(5, 3, 3), (3, 5, 3), (None, 4, 4), (4, None, 4), (None, None, None), (0, None, 0)],
)
def test_the_earlier_of_two_counts_and_never_is_latest(
    one: int | None, other: int | None, earlier: int | None
) -> None:
    assert Deadline(at_ms=one).earlier_of(Deadline(at_ms=other)) == Deadline(at_ms=earlier)
