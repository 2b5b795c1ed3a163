"""How the samples of an overload run become figures."""

from dataclasses import replace

import pytest
from rich.console import Console

from services.cli.benchmarks.goals import missed_goals
from services.cli.benchmarks.open_loop import Sample
from services.cli.benchmarks.overload import (
    OverloadPlan,
    OverloadResult,
    Point,
    figures_of,
    overload_table,
    point_of,
)

PLAN = OverloadPlan(model=None, served_name="null", first_token_seconds=2.0, answer_seconds=10.0)
POINT = Point(
    factor=1.5,
    asked=150,
    answered=100,
    refused=50,
    lost=0,
    goodput=10.0,
    first_token_p99=1.5,
    refusal_p99=0.004,
    resident_bytes=1_000,
)


def sample(first: float | None = 0.5, seconds: float = 1.0, status: int = 200, body: bytes = b"{}") -> Sample:
    return Sample(asked_at=0.0, seconds=seconds, first_seconds=first, status=status, body=body)


def test_only_what_keeps_both_objectives_is_goodput() -> None:
    samples = [sample(), sample(first=2.5), sample(seconds=11.0), sample(status=503), sample(status=0, first=None)]
    point = point_of(PLAN, 5.0, samples, 2.0, 7)
    assert (point.asked, point.answered, point.refused, point.lost) == (5, 3, 1, 1)
    assert point.goodput == 0.5
    assert point.first_token_p99 == 2.5


def test_an_error_inside_a_stream_is_lost_not_answered() -> None:
    point = point_of(PLAN, 1.0, [sample(body=b'data: {"error":{"code":"x"}}')], 1.0, 0)
    assert (point.answered, point.lost) == (0, 1)


def test_a_run_without_any_answer_has_figures_too() -> None:
    point = point_of(PLAN, 1.0, [sample(status=503, seconds=0.01)], 1.0, 0)
    assert (point.goodput, point.first_token_p99, point.refusal_p99) == (0.0, 0.0, 0.01)


def result(*points: Point, recovered: Point | None = None) -> OverloadResult:
    calm = replace(POINT, factor=0.5, refused=0, first_token_p99=0.1)
    return OverloadResult(capacity=10.0, points=list(points), recovered=recovered or calm)


def test_a_platform_that_holds_misses_no_goal() -> None:
    held = result(POINT, replace(POINT, factor=5.0, goodput=9.8))
    assert missed_goals(figures_of(PLAN, held)) == []


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"goodput": 5.0}, "goodput_at_most_load_over_peak"),
        ({"first_token_p99": 2.1}, "first_token_p99_s"),
        ({"lost": 1}, "lost"),
        ({"refusal_p99": 0.05}, "refusal_p99_ms"),
        ({"resident_bytes": 1_200}, "memory_growth_under_overload"),
    ],
)
def test_each_promise_that_is_broken_is_named(changes: dict[str, float], missed: str) -> None:
    broken = result(POINT, replace(POINT, factor=5.0, **changes))  # type: ignore[arg-type]
    assert [line.partition(":")[0] for line in missed_goals(figures_of(PLAN, broken))] == [missed]


def test_refusals_after_the_rest_are_no_recovery() -> None:
    sick = result(POINT, recovered=replace(POINT, factor=0.5, refused=3))
    assert [line.partition(":")[0] for line in missed_goals(figures_of(PLAN, sick))] == ["recovered_refused"]


def test_the_table_has_a_line_for_each_point_and_the_recovery() -> None:
    with open("/dev/null", "w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(overload_table(result(POINT)))
        text = console.export_text()
    assert "1.5x" in text
    assert "after" in text
    assert "4.0 ms" in text
