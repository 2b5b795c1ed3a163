"""Figures, goals and percentiles."""

import pytest
from rich.console import Console

from services.cli.benchmarks.goals import Figure, as_json, figures_table, missed_goals, percentile, processor_table


def figure(value: float, goal: float | None, *, at_most: bool = True) -> Figure:
    return Figure(name="f", value=value, unit="ms", goal=goal, at_most=at_most)


@pytest.mark.parametrize(
    ("subject", "missed"),
    [
        (figure(7.0, 7.0), False),
        (figure(7.1, 7.0), True),
        (figure(500, 500, at_most=False), False),
        (figure(499, 500, at_most=False), True),
        (figure(1e9, None), False),
    ],
)
def test_a_goal_is_missed_on_its_wrong_side_only(subject: Figure, missed: bool) -> None:
    assert subject.is_missed is missed


def test_a_missed_goal_is_named_with_both_numbers() -> None:
    assert missed_goals([figure(9.0, 7.0), figure(1.0, 7.0)]) == ["f: 9 ms, goal 7 ms"]


def test_json_says_which_goals_are_missed() -> None:
    answer = as_json([figure(9.0, 7.0)], benchmark="b")
    assert answer["benchmark"] == "b"
    assert answer["figures"][0]["is_missed"] is True
    assert answer["figures"][0]["goal"] == 7.0


def test_the_table_shows_verdicts() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(figures_table("t", [figure(9.0, 7.0), figure(6.0, 7.0), figure(12345.0, None)]))
    text = console.export_text()
    assert "missed" in text
    assert "met" in text
    assert "12,345 ms" in text


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 0.5, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), (list(range(1, 101)), 0.99, 99), ([1.0, 9.0], 1.0, 9.0)],
)
def test_percentiles_are_by_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_processor_time_is_a_table_of_services_by_units_of_work() -> None:
    figures = [
        Figure(name="http_requests_per_second", value=800, unit="requests/s"),
        Figure(name="cpu_ms_per_http_request.worker", value=0.8, unit="ms"),
        Figure(name="cpu_ms_per_http_request.all", value=2.5, unit="ms"),
        Figure(name="cpu_ms_per_kafka_request.worker", value=0.5, unit="ms"),
        Figure(name="cpu_cores.http_request", value=1.5, unit="cores"),
    ]
    with open("/dev/null", "w") as nowhere:
        console = Console(width=100, record=True, file=nowhere)
        console.print(processor_table(figures))
        lines = console.export_text().splitlines()
    assert any("http request" in line and "kafka request" in line for line in lines)
    worker, everything = (next(line for line in lines if name in line) for name in ("worker", "all"))
    assert "0.8" in worker
    assert "0.5" in worker
    assert "2.5" in everything
    assert lines.index(worker) < lines.index(everything)
    assert not any("800" in line or "1.5" in line for line in lines)
