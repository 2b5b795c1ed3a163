"""Who is much slower than its pool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.fleet import FleetView, fold_heartbeat
from services.supervisor.outliers import OutlierRules, find_outliers
from shared.contracts.fleet import WorkerState
from shared.contracts.identifiers import WorkerId
from tests.unit.services.supervisor.builders import heartbeat

RULES = OutlierRules()


def fleet(*steps: float, pool: str = "default", state: WorkerState = WorkerState.READY) -> FleetView:
    view = FleetView()
    for number, step in enumerate(steps):
        beat = heartbeat(f"{pool}-{number}", step_seconds=step, pool=pool, state=state)
        view = fold_heartbeat(view, beat, now=0.0, now_ms=0).view
    return view


def names(view: FleetView, *, ejected: tuple[str, ...] = ()) -> list[str]:
    out = [WorkerId(name) for name in ejected]
    return [outlier.worker_id for outlier in find_outliers(view, ejected=out, rules=RULES)]


def test_a_worker_three_times_as_slow_as_the_others_is_one() -> None:
    assert names(fleet(0.01, 0.011, 0.03)) == ["default-2"]


def test_of_two_the_slow_one_is_told_from_the_fast_one() -> None:
    assert names(fleet(0.03, 0.01)) == ["default-0"]


def test_usual_differences_are_none() -> None:
    assert names(fleet(0.01, 0.015, 0.02)) == []


def test_a_worker_alone_has_nothing_to_be_compared_with() -> None:
    assert names(fleet(5.0)) == []


def test_each_pool_is_its_own() -> None:
    view = FleetView(members={**fleet(0.01, 0.01).members, **fleet(1.0, 1.0, pool="large").members})
    assert names(view) == []


def test_who_is_not_ready_or_has_not_told_does_not_count() -> None:
    assert names(fleet(0.01, 0.0)) == []
    assert names(fleet(0.01, 0.05, state=WorkerState.DRAINING)) == []


def test_the_slowest_goes_first_and_a_floor_keeps_the_rest() -> None:
    view = fleet(0.01, 0.01, 0.01, 0.01, 0.04, 0.05, 0.06)
    assert names(view) == ["default-6", "default-5", "default-4"]
    assert names(view, ejected=("default-6",)) == ["default-5", "default-4"]
    assert names(view, ejected=("default-0", "default-1", "default-2")) == []


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=12))
def test_never_more_than_the_share_and_never_the_fastest(steps: list[float]) -> None:
    view = fleet(*steps)
    found = names(view)
    assert len(found) <= len(steps) // 2
    fastest = f"default-{min(range(len(steps)), key=steps.__getitem__)}"
    assert fastest not in found


@pytest.mark.parametrize("wrong", [{"slow_factor": 1.0}, {"most_ejected_share": 1.0}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="need"):
        OutlierRules(**wrong)
