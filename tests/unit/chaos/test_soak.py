"""The soak tells growth from noise."""

import pytest

from tests.chaos.soak import Sample, grown, render


def samples(memories: list[float], *, keys: list[int] | None = None, threads: int = 5) -> list[Sample]:
    found = keys or [100] * len(memories)
    return [
        Sample(number * 100, number * 10.0, {"gateway-0": (memory, threads, 20)}, found[number])
        for number, memory in enumerate(memories)
    ]


def test_what_levels_off_after_its_start_has_not_grown() -> None:
    assert grown(samples([50, 90, 100, 101, 102, 101])) == []


@pytest.mark.parametrize(
    "found",
    [
        samples([50, 90, 100, 120, 140, 160]),
        samples([100] * 6, keys=[10, 500, 900, 1_500, 2_500, 4_000]),
        [*samples([100] * 5), *samples([100] * 6, threads=40)[5:]],
    ],
    ids=["memory", "ledger keys", "threads"],
)
def test_what_goes_on_rising_has_grown(found: list[Sample]) -> None:
    assert len(grown(found)) == 1


def test_a_service_that_was_started_again_is_told_of() -> None:
    found = samples([100] * 6)
    found[2].processes.clear()
    assert grown(found) == ["gateway-0 was started again"]


def test_too_few_samples_prove_nothing() -> None:
    assert grown(samples([100, 100])) == ["too few samples to say"]


def test_the_table_has_a_row_for_each_look() -> None:
    lines = render(samples([100, 101])).splitlines()
    assert lines[0] == "| answered | seconds | gateway-0 | ledger keys |"
    assert lines[-1] == "| 100 | 10 | 101 MiB, 5 t, 20 f | 100 |"
