import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.resilience.backoff import Backoff


class Highest(random.Random):
    """Draws the upper end, so that the ceilings show."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_ceilings_double_up_to_the_maximum() -> None:
    backoff = Backoff(initial_seconds=0.1, maximum_seconds=1.0, generator=Highest())
    assert [backoff.next_seconds() for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_a_success_starts_over() -> None:
    backoff = Backoff(initial_seconds=0.1, generator=Highest())
    for _ in range(5):
        backoff.next_seconds()
    backoff.reset()
    assert backoff.next_seconds() == 0.1


@given(st.integers(), st.floats(0.01, 1.0), st.floats(1.0, 60.0), st.floats(1.0, 4.0))
def test_every_delay_lies_between_nothing_and_its_ceiling(
    seed: int, initial: float, maximum: float, factor: float
) -> None:
    backoff = Backoff(initial_seconds=initial, maximum_seconds=maximum, factor=factor, generator=random.Random(seed))
    for _ in range(20):
        ceiling = backoff.ceiling_seconds
        assert 0 <= backoff.next_seconds() <= ceiling <= maximum


def test_jitter_is_full_so_that_a_herd_spreads_over_the_whole_interval() -> None:
    generator = random.Random(1)
    delays = [Backoff(initial_seconds=1.0, generator=generator).next_seconds() for _ in range(1_000)]
    # False alarm: each tenth expects 100 with a standard deviation of 9.5; 50 is over five of them. Seeded anyway.
    for tenth in range(10):
        assert sum(tenth / 10 <= delay < (tenth + 1) / 10 for delay in delays) > 50


def test_the_same_seed_gives_the_same_delays() -> None:
    one, other = (Backoff(generator=random.Random(7)) for _ in range(2))
    assert [one.next_seconds() for _ in range(5)] == [other.next_seconds() for _ in range(5)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial_seconds": 0.0},
        {"initial_seconds": 2.0, "maximum_seconds": 1.0},
        {"factor": 0.5},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|factor"):
        Backoff(**wrong)
