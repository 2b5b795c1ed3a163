"""Whatever order heartbeats arrive in, however often: the view says what the latest of them said."""

from hypothesis import given
from hypothesis import strategies as st

from services.supervisor.fleet import FleetView, MemberState, fold_heartbeat
from shared.contracts.fleet import FleetEventKind, Heartbeat, WorkerState
from tests.unit.services.supervisor.builders import heartbeat

STATES = [WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.ENGINE_DOWN]


@st.composite
def one_life(draw: st.DrawFn) -> list[Heartbeat]:
    states = draw(st.lists(st.sampled_from(STATES), min_size=1, max_size=8))
    return [heartbeat(number=number, state=state) for number, state in enumerate(states, start=1)]


@given(one_life(), st.data())
def test_one_life_in_any_order_with_repeats_ends_in_its_last_state(life: list[Heartbeat], data: st.DataObject) -> None:
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=8))
    view = FleetView()
    for beat in data.draw(st.permutations([*life, *repeats])):
        view = fold_heartbeat(view, beat, now=0.0, now_ms=0).view
    (member,) = view.members.values()
    assert member.heartbeat == life[-1]
    assert member.state == MemberState(life[-1].state)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.sampled_from(STATES)), max_size=30))
def test_a_view_never_goes_back_to_a_former_life_or_an_older_heartbeat(
    beats: list[tuple[str, int, WorkerState]],
) -> None:
    view, left, seen = FleetView(), set(), {}
    for life, number, state in beats:
        beat = heartbeat(life=life, number=number, state=state, sent_at_ms=ord(life) * 1_000 + number)
        before = view.members.get(beat.worker_id)
        fold = fold_heartbeat(view, beat, now=0.0, now_ms=0)
        view = fold.view
        now = view.members[beat.worker_id].heartbeat
        if before is not None and now.incarnation != before.heartbeat.incarnation:
            left.add(before.heartbeat.incarnation)
            lost = [event for event in fold.events if event.kind is FleetEventKind.WORKER_LOST]
            assert [event.incarnation for event in lost] == [before.heartbeat.incarnation]
        assert now.incarnation not in left
        assert now.sequence_number >= seen.get(now.incarnation, 0)
        seen[now.incarnation] = now.sequence_number
