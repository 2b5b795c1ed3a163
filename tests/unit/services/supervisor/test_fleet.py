import pytest

from services.supervisor.fleet import (
    FleetView,
    Fold,
    Loss,
    MemberState,
    Reception,
    fold_heartbeat,
    fold_losses,
    forget,
)
from shared.contracts.fleet import FleetEventKind, Heartbeat, WorkerState
from shared.contracts.identifiers import Incarnation, WorkerId
from tests.unit.services.supervisor.builders import heartbeat

JOINED, READY = FleetEventKind.WORKER_JOINED, FleetEventKind.WORKER_READY
LOST, LEFT, ENGINE_DOWN = (
    FleetEventKind.WORKER_LOST,
    FleetEventKind.WORKER_LEFT,
    FleetEventKind.ENGINE_DOWN,
)
W0 = WorkerId("w-0")


def hear(view: FleetView, *heartbeats: Heartbeat, now: float = 0.0) -> tuple[FleetView, list[FleetEventKind]]:
    kinds = []
    for beat in heartbeats:
        fold = fold_heartbeat(view, beat, now=now, now_ms=0)
        view = fold.view
        kinds += [event.kind for event in fold.events]
    return view, kinds


def lose(view: FleetView, worker: str = "w-0", life: str = "a", *, now: float = 1.0) -> Fold:
    loss = Loss(worker_id=WorkerId(worker), incarnation=Incarnation(f"{worker}.{life}"), reason="why")
    return fold_losses(view, [loss], now=now, now_ms=0)


def test_a_worker_joins_starting_and_becomes_ready() -> None:
    view, kinds = hear(FleetView(), heartbeat(number=1, state=WorkerState.STARTING), heartbeat(number=2))
    assert kinds == [JOINED, READY]
    assert view.members[W0].state is MemberState.READY


def test_a_worker_first_heard_of_when_ready_joins_and_is_ready() -> None:
    assert hear(FleetView(), heartbeat())[1] == [JOINED, READY]


def test_being_ready_is_told_once() -> None:
    assert hear(FleetView(), *(heartbeat(number=number) for number in range(5)))[1] == [JOINED, READY]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_repeated_or_late_heartbeat_changes_nothing(number: int) -> None:
    view, _ = hear(FleetView(), heartbeat(number=3))
    fold = fold_heartbeat(view, heartbeat(number=number, state=WorkerState.ENGINE_DOWN), now=5.0, now_ms=0)
    assert fold.view is view
    assert fold.events == ()
    assert fold.reception is Reception.REPEATED


def test_an_engine_that_goes_down_and_comes_back_is_told_twice() -> None:
    beats = [heartbeat(number=1), heartbeat(number=2, state=WorkerState.ENGINE_DOWN), heartbeat(number=3)]
    assert hear(FleetView(), *beats)[1] == [JOINED, READY, ENGINE_DOWN, READY]


def test_draining_is_a_state_without_an_event() -> None:
    view, kinds = hear(FleetView(), heartbeat(), heartbeat(number=2, state=WorkerState.DRAINING))
    assert kinds == [JOINED, READY]
    assert view.members[W0].state is MemberState.DRAINING


def test_a_goodbye_is_told_and_final() -> None:
    view, kinds = hear(FleetView(), heartbeat(), heartbeat(number=2, state=WorkerState.STOPPED))
    assert kinds[-1] is LEFT
    again, kinds = hear(view, heartbeat(number=3))
    assert again is view
    assert kinds == []


def test_a_goodbye_as_the_first_word_is_no_news() -> None:
    view, kinds = hear(FleetView(), heartbeat(state=WorkerState.STOPPED))
    assert kinds == []
    assert view.living() == []


def test_a_lost_worker_is_told_once() -> None:
    view, _ = hear(FleetView(), heartbeat())
    first = lose(view)
    assert [event.kind for event in first.events] == [LOST]
    assert first.events[0].detail == "why"
    assert first.view.members[W0].reason == "why"
    assert lose(first.view).events == ()


def test_a_lost_worker_that_is_heard_again_is_back() -> None:
    view, _ = hear(FleetView(), heartbeat())
    view, kinds = hear(lose(view).view, heartbeat(number=2))
    assert kinds == [READY]
    assert view.members[W0].state is MemberState.READY
    assert view.members[W0].reason == ""


def test_a_late_heartbeat_does_not_bring_a_lost_worker_back() -> None:
    view, _ = hear(FleetView(), heartbeat(number=7))
    view, kinds = hear(lose(view).view, heartbeat(number=6))
    assert kinds == []
    assert view.members[W0].state is MemberState.LOST


@pytest.mark.parametrize("loss", [("w-0", "b"), ("w-9", "a")])
def test_a_verdict_about_another_life_changes_nothing(loss: tuple[str, str]) -> None:
    view, _ = hear(FleetView(), heartbeat())
    assert lose(view, *loss).view is view


def test_a_verdict_about_one_who_left_changes_nothing() -> None:
    view, _ = hear(FleetView(), heartbeat(), heartbeat(number=2, state=WorkerState.STOPPED))
    assert lose(view).events == ()


def test_a_new_life_without_a_goodbye_of_the_old_one_means_that_the_old_one_is_lost() -> None:
    view, _ = hear(FleetView(), heartbeat(number=9))
    fold = fold_heartbeat(view, heartbeat(life="b", sent_at_ms=9_000), now=1.0, now_ms=0)
    assert [event.kind for event in fold.events] == [LOST, JOINED, READY]
    assert [event.incarnation for event in fold.events] == ["w-0.a", "w-0.b", "w-0.b"]


def test_a_new_life_after_a_loss_is_told_without_a_second_loss() -> None:
    view, _ = hear(FleetView(), heartbeat())
    fold = fold_heartbeat(lose(view).view, heartbeat(life="b", sent_at_ms=9_000), now=1.0, now_ms=0)
    assert [event.kind for event in fold.events] == [JOINED, READY]


def test_a_former_life_never_counts_again_however_late_it_speaks() -> None:
    view, _ = hear(FleetView(), heartbeat(number=1), heartbeat(life="b", sent_at_ms=9_000))
    fold = fold_heartbeat(view, heartbeat(number=50, sent_at_ms=99_000), now=1.0, now_ms=0)
    assert fold.reception is Reception.SUPERSEDED
    assert fold.view.members[W0].heartbeat.incarnation == "w-0.b"


def test_of_two_unknown_lives_the_one_that_sent_later_is_the_living_one() -> None:
    newer, older = heartbeat(life="b", sent_at_ms=9_000), heartbeat(life="a", sent_at_ms=1_000)
    view, _ = hear(FleetView(), newer, older)
    assert view.members[W0].heartbeat.incarnation == "w-0.b"
    again, kinds = hear(view, heartbeat(life="a", number=2, sent_at_ms=99_000))
    assert kinds == []
    assert again.members[W0].heartbeat.incarnation == "w-0.b"


def test_a_restart_with_a_clock_set_back_joins_once_the_former_life_is_gone() -> None:
    view, _ = hear(FleetView(), heartbeat(sent_at_ms=9_000))
    view, kinds = hear(lose(view).view, heartbeat(life="b", sent_at_ms=10))
    assert kinds == [JOINED, READY]
    assert view.members[W0].heartbeat.incarnation == "w-0.b"


def test_only_the_last_former_lives_are_remembered() -> None:
    view = FleetView()
    for number in range(100):
        view, _ = hear(view, heartbeat(life=str(number), sent_at_ms=number))
    assert len(view.members[W0].retired) == 16
    assert view.members[W0].retired[-1] == "w-0.98"


def test_who_is_gone_is_forgotten_after_a_while_and_who_lives_never() -> None:
    view, _ = hear(FleetView(), heartbeat("gone"), heartbeat("alive"))
    view = lose(view, "gone", now=10.0).view
    assert forget(view, now=69.9, after_seconds=60) is view
    assert set(forget(view, now=70.0, after_seconds=60).members) == {"alive"}


def test_workers_are_counted_by_pool_and_state() -> None:
    view, _ = hear(FleetView(), heartbeat("a"), heartbeat("b"), heartbeat("c", pool="other"))
    view = lose(view, "b").view
    assert view.counts() == {
        ("default", MemberState.READY): 1,
        ("default", MemberState.LOST): 1,
        ("other", MemberState.READY): 1,
    }


def test_the_supervisors_states_contain_every_state_of_a_worker() -> None:
    assert {state.value for state in WorkerState} == {state.value for state in MemberState} - {"lost"}
