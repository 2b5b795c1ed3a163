import pytest

from services.supervisor.failure_detector import DetectionRules, LeaseGrace, find_losses, silent
from services.supervisor.fleet import FleetView, fold_heartbeat
from shared.contracts.fleet import WorkerState
from shared.contracts.identifiers import Incarnation
from tests.unit.services.supervisor.builders import heartbeat

RULES = DetectionRules(silent_after_seconds=5.0, deaf_after_seconds=2.5)


def fleet(**heard_at: float) -> FleetView:
    view = FleetView()
    for worker, at in heard_at.items():
        view = fold_heartbeat(view, heartbeat(worker), now=at, now_ms=0).view
    return view


def lost(view: FleetView, *leaseless: str, now: float) -> dict[str, str]:
    found = find_losses(view, leaseless=frozenset(Incarnation(name) for name in leaseless), now=now, rules=RULES)
    return {loss.incarnation: loss.reason for loss in found}


def test_an_ended_lease_is_a_loss_at_once() -> None:
    assert lost(fleet(a=0.0, b=0.0), "a.a", now=0.1) == {"a.a": "its lease ended while it owned requests"}


def test_an_ended_lease_of_a_former_life_says_nothing_of_this_one() -> None:
    assert lost(fleet(a=0.0), "a.before", now=0.1) == {}


def test_silence_is_a_loss_after_its_time_and_not_before() -> None:
    view = fleet(a=0.0, b=4.9)
    assert lost(view, now=4.9) == {}
    assert lost(view, now=5.0) == {"a.a": "no heartbeat for 5.0 s"}


def test_when_nobody_is_heard_nobody_is_lost_for_silence() -> None:
    assert lost(fleet(a=0.0, b=1.0), now=30.0) == {}


def test_when_nobody_is_heard_leases_still_count() -> None:
    assert set(lost(fleet(a=0.0, b=1.0), "b.a", now=30.0)) == {"b.a"}


def test_a_fleet_that_died_as_a_whole_is_told_from_a_deaf_ear_by_its_leases() -> None:
    view = fleet(a=0.0, b=1.0)
    unleased = [Incarnation("a.a"), Incarnation("b.a")]
    found = find_losses(view, leaseless=(), unleased=unleased, now=5.5, rules=RULES)
    assert [(loss.worker_id, loss.reason) for loss in found] == [("a", "no lease, and no heartbeat for 5.5 s")]
    assert len(find_losses(view, leaseless=(), unleased=unleased, now=6.0, rules=RULES)) == 2


def test_the_only_worker_is_lost_by_its_own_silence() -> None:
    assert set(lost(fleet(a=0.0), now=5.0)) == {"a.a"}


def test_silence_is_no_proof_against_who_holds_a_lease() -> None:
    """Kafka may be silent for longer than any patience without anybody being dead."""
    leased = [Incarnation("a.a")]
    view = fleet(a=0.0)
    assert find_losses(view, leaseless=(), leased=leased, now=60.0, rules=RULES) == []
    assert find_losses(view, leaseless=leased, leased=leased, now=60.0, rules=RULES) != []


def test_who_is_asked_for_a_lease_is_who_was_silent_for_too_long() -> None:
    assert silent(fleet(a=0.0, b=3.0), now=5.0, rules=RULES) == ["a.a"]
    assert silent(fleet(a=0.0), now=4.9, rules=RULES) == []


def test_who_has_left_or_is_lost_is_not_lost_again() -> None:
    view = fold_heartbeat(fleet(a=0.0), heartbeat("a", 2, state=WorkerState.STOPPED), now=0.0, now_ms=0).view
    assert lost(view, "a.a", now=60.0) == {}


def test_an_empty_fleet_has_no_losses() -> None:
    assert lost(FleetView(), "ghost.a", now=60.0) == {}


@pytest.mark.parametrize(("deaf", "silent"), [(0.0, 5.0), (5.0, 5.0), (6.0, 5.0)])
def test_rules_that_make_no_sense_are_refused(deaf: float, silent: float) -> None:
    with pytest.raises(ValueError, match="deaf_after_seconds"):
        DetectionRules(silent_after_seconds=silent, deaf_after_seconds=deaf)


class TestLeaseGrace:
    def test_the_first_look_is_believed(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        assert grace.looked(started_at=0.0, now=0.01, epoch="1")

    def test_regular_looks_are_believed(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        assert all(grace.looked(started_at=at, now=at + 0.01, epoch="1") for at in (0.0, 0.2, 0.4, 1.5))

    def test_after_a_gap_workers_get_time_to_refresh(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        grace.looked(started_at=0.0, now=0.0, epoch="1")
        assert not grace.looked(started_at=2.9, now=3.0, epoch="1")
        assert not grace.looked(started_at=3.4, now=3.4, epoch="1")
        assert grace.looked(started_at=3.6, now=3.7, epoch="1")

    def test_a_look_that_hung_is_a_gap_itself(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        grace.looked(started_at=0.0, now=0.0, epoch="1")
        assert not grace.looked(started_at=0.2, now=4.0, epoch="1")

    def test_leases_that_redis_forgot_prove_nothing(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        assert grace.looked(started_at=0.0, now=0.0, epoch="1")
        assert not grace.looked(started_at=0.2, now=0.2, epoch=None), "empty, and back so soon that there was no gap"
        assert not grace.looked(started_at=0.4, now=0.4, epoch="2")
        assert grace.looked(started_at=1.2, now=1.2, epoch="2")

    def test_a_new_memory_that_was_opened_between_two_looks_is_noticed_too(self) -> None:
        grace = LeaseGrace(longest_gap_seconds=1.2, grace_seconds=0.6)
        grace.looked(started_at=0.0, now=0.0, epoch="1")
        assert not grace.looked(started_at=0.2, now=0.2, epoch="2")


def test_a_suspected_worker_without_a_lease_is_lost_before_the_limit_and_one_with_a_lease_is_not() -> None:
    view = FleetView()
    for worker in ("w-0", "w-1"):
        view = fold_heartbeat(view, heartbeat(worker), now=0.0, now_ms=0).view
    view = fold_heartbeat(view, heartbeat("w-1", 2), now=2.0, now_ms=0).view
    suspected = [Incarnation("w-0.a")]
    (loss,) = find_losses(view, leaseless=(), now=2.5, rules=DetectionRules(), suspected=suspected)
    assert loss.worker_id == "w-0"
    assert "unlike it" in loss.reason
    assert not find_losses(view, leaseless=(), now=2.5, rules=DetectionRules(), suspected=suspected, leased=suspected)
