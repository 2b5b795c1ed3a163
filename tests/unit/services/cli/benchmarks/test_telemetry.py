"""Rounds to the share that telemetry costs."""

from services.cli.benchmarks.telemetry import figures_of


def test_the_overhead_is_the_median_of_the_rounds_own_ratios() -> None:
    """A round that both sides spent on a busy machine counts like any other."""
    figures = {figure.name: figure for figure in figures_of([(1.04, 1.0), (20.6, 20.0), (1.1, 1.0)])}
    assert round(figures["overhead"].value, 6) == 4.0
    assert not figures["overhead"].is_missed
    assert round(figures["overhead_most_round"].value, 6) == 10.0


def test_more_than_a_twentieth_misses_the_goal() -> None:
    figures = {figure.name: figure for figure in figures_of([(1.2, 1.0)])}
    assert figures["overhead"].is_missed
