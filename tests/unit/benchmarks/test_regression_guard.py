"""What the guard makes of times; the times themselves are no test."""

from tests.benchmarks.regression_guard import Guarded, ratio, report


def nothing() -> None:
    pass


def also_nothing() -> None:
    pass


def test_a_ratio_is_of_medians_so_that_one_interruption_does_not_count() -> None:
    ticks = iter([0, 1, 1, 3, 10, 11, 11, 13, 20, 99, 100, 102])
    guarded = Guarded(name="x", ours=nothing, other=also_nothing, at_least=1.5)
    assert ratio(guarded, repeats=3, clock=lambda: next(ticks)) == 2.0


def test_a_ratio_below_its_limit_is_named_and_fails_the_whole() -> None:
    guards = [Guarded(name=name, ours=nothing, other=also_nothing, at_least=1.5) for name in ("kept", "lost")]
    table, holds = report(guards, lambda guarded: 1.5 if guarded.name == "kept" else 1.49)
    assert not holds
    assert "| kept | 1.50 | 1.5 | holds |" in table
    assert "| lost | 1.49 | 1.5 | FELL |" in table
    assert report(guards[:1], lambda guarded: 1.5)[1]
