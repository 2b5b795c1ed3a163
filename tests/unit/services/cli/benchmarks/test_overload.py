"""How the samples of an overload run become points, figures and a table, and how a run in parts goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.benchmarks.goals import missed_goals
from services.cli.benchmarks.open_loop import Sample
from services.cli.benchmarks.overload import OverloadPlan
from services.cli.benchmarks.overload_points import (
    Limits,
    OverloadRecord,
    Point,
    figures_of,
    overload_table,
    point_line,
    point_of,
)
from services.cli.console import CommandFailed

LIMITS = Limits(first_token_seconds=2.0, answer_seconds=10.0)
POINT = Point(
    factor=1.5,
    asked=150,
    answered=100,
    refused=50,
    gave_up=0,
    lost=0,
    goodput=10.0,
    first_token_p50=0.5,
    first_token_p99=1.5,
    refusal_p50=0.002,
    refusal_p99=0.004,
    resident_bytes=1_000,
    tail_seconds=2.0,
    engine_cores=1.0,
    other_cores=0.4,
)


def sample(
    first: float | None = 0.5, seconds: float = 1.0, status: int = 200, body: bytes = b"{}", has_given_up: bool = False
) -> Sample:
    return Sample(
        asked_at=0.0, seconds=seconds, first_seconds=first, status=status, body=body, has_given_up=has_given_up
    )


def a_point(*samples: Sample, took: float = 2.0) -> Point:
    used = {"engine": 1.0, "gateway": 0.25, "load": 0.25}
    return point_of(LIMITS, 5.0, list(samples), seconds=1.5, took=took, resident_bytes=7, processor_seconds=used)


def test_only_what_keeps_both_objectives_is_goodput() -> None:
    samples = [sample(), sample(first=2.5), sample(seconds=11.0), sample(status=503), sample(status=0, first=None)]
    point = a_point(*samples)
    assert (point.asked, point.answered, point.refused, point.gave_up, point.lost) == (5, 3, 1, 0, 1)
    assert point.goodput == 0.5
    assert point.first_token_p99 == 2.5
    assert point.tail_seconds == 0.5
    assert (point.engine_cores, point.other_cores) == (0.5, 0.25)


def test_who_gives_up_waited_for_the_first_token_at_least_as_long_as_that() -> None:
    silent = sample(first=None, seconds=30.0, status=0, has_given_up=True)
    begun = sample(first=4.0, seconds=30.0, status=0, has_given_up=True)
    assert (a_point(silent).gave_up, a_point(silent).lost, a_point(silent).first_token_p99) == (1, 0, 30.0)
    assert a_point(begun).first_token_p99 == 4.0


def test_an_error_inside_a_stream_is_lost_not_answered() -> None:
    point = a_point(sample(body=b'data: {"error":{"code":"x"}}'))
    assert (point.answered, point.lost) == (0, 1)


def test_a_run_without_any_answer_has_figures_too() -> None:
    point = a_point(sample(status=503, seconds=0.01))
    assert (point.goodput, point.first_token_p99, point.refusal_p99) == (0.0, 0.0, 0.01)


def record_of(*points: Point, recovered: Point | None = None) -> OverloadRecord:
    record = OverloadRecord({})
    record.measured_capacity(10.0)
    for point in points:
        record.add(point)
    record.recovered_with(recovered or replace(POINT, factor=0.5, refused=0, first_token_p99=0.1))
    return record


def missed(record: OverloadRecord) -> list[str]:
    return [line.partition(":")[0] for line in missed_goals(figures_of(LIMITS, record))]


def test_a_platform_that_holds_misses_no_goal() -> None:
    assert missed(record_of(POINT, replace(POINT, factor=5.0, goodput=9.8))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"goodput": 5.0}, "goodput_at_most_load_over_peak"),
        ({"first_token_p99": 2.1}, "first_token_p99_s"),
        ({"lost": 1}, "lost"),
        ({"gave_up": 1}, "lost"),
        ({"refusal_p99": 0.05}, "refusal_p99_ms"),
        ({"resident_bytes": 1_200}, "memory_growth_under_overload"),
    ],
)
def test_each_promise_that_is_broken_is_named(changes: dict[str, float], expected: str) -> None:
    assert missed(record_of(POINT, replace(POINT, factor=5.0, **changes))) == [expected]  # type: ignore[arg-type]


def test_refusals_after_the_rest_are_no_recovery() -> None:
    assert missed(record_of(POINT, recovered=replace(POINT, factor=0.5, refused=3))) == ["recovered_refused"]


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "overload.json"
    first = OverloadRecord({"slots": 8}, file)
    first.measured_capacity(4.0)
    first.add(replace(POINT, factor=5.0))
    second = OverloadRecord({"slots": 8}, file)
    assert (second.capacity, second.factors, second.recovered) == (4.0, {5.0}, None)
    second.add(POINT)
    second.recovered_with(POINT)
    third = OverloadRecord({"slots": 8}, file)
    assert [point.factor for point in third.points] == [1.5, 5.0]
    assert third.recovered == POINT


def test_points_of_another_load_do_not_get_into_the_table(tmp_path: Path) -> None:
    file = tmp_path / "overload.json"
    OverloadRecord({"slots": 8}, file).measured_capacity(4.0)
    with pytest.raises(CommandFailed, match="another load"):
        OverloadRecord({"slots": 16}, file)


def test_admission_on_and_off_are_two_loads() -> None:
    on = OverloadPlan(model=None, served_name="null")
    assert on.identity != replace(on, is_admission_on=False).identity


def test_the_table_has_a_line_for_each_point_and_the_recovery_in_eighty_columns() -> None:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=80, record=True, file=nowhere)
        console.print(overload_table(record_of(POINT)))
        text = console.export_text()
    assert "1.5x" in text
    assert "after" in text
    assert "1.50" in text
    assert "…" not in text


def test_each_point_is_told_in_a_line_as_soon_as_it_is_known() -> None:
    assert point_line(POINT).startswith("1.5x: asked 150; answered 100; refused 50; gave up 0; lost 0; goodput/s 10.00")
