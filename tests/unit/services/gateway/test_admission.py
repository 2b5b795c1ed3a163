"""Who comes in, who does not, with which error, and when they should come back."""

from typing import Any

import pytest

from services.gateway.admission import Admission, AdmissionRules, Place, Seeker
from services.gateway.capacity_model import CapacityModel
from shared.contracts.errors import QueueFull, RateLimited
from shared.contracts.fleet import Heartbeat
from shared.contracts.requests import Lane
from shared.resilience.clock import ManualClock
from shared.resilience.fair_shares import FairShares
from shared.settings.slo import SloSettings
from tests.fakes.served_gateway import heartbeat

OBJECTIVES = SloSettings(interactive_first_token_ms=2_000, interactive_inter_token_ms=100)
SEEKER = {"tenant": "acme", "lane": Lane.INTERACTIVE, "pool": "default", "tokens": 10, "deadline_ms": 1 << 50}


class Door:
    """An admission, its clock, and the fleet that it sees."""

    def __init__(self, fleet: tuple[Heartbeat, ...] = (heartbeat(),), **rules: Any) -> None:
        self.clock = ManualClock()
        self.fleet = list(fleet)
        self.model = CapacityModel(clock=self.clock)
        self.admission = Admission(
            AdmissionRules(**rules),
            objectives=OBJECTIVES,
            model=self.model,
            shares=FairShares(clock=self.clock),
            ready_workers=lambda pool: self.fleet,
            clock=self.clock,
        )

    def tell(self, **changes: Any) -> None:
        """A new heartbeat of the only worker."""
        self.clock.move(0.5)
        self.fleet = [heartbeat(**changes)]
        self.model.observe(self.fleet[0])

    def enter(self, **changes: Any) -> Place:
        return self.admission.enter(Seeker(**(SEEKER | changes)))


def busy(queued: int, **changes: Any) -> dict[str, Any]:
    """A full batch of 8, draining 40 tokens a second: with 10 tokens each, 4 requests a second."""
    return {
        "running_requests": 8 + queued,
        "queued_requests": queued,
        "drained_tokens_per_second": 40.0,
        "outstanding_tokens": 10 * (8 + queued),
        **changes,
    }


# --- places


def test_beyond_the_bound_it_refuses_and_a_place_given_back_admits_again() -> None:
    door = Door(max_outstanding_requests=2)
    first, _ = door.enter(), door.enter()
    with pytest.raises(QueueFull):
        door.enter()
    first.give_back()
    door.enter()
    assert door.admission.outstanding_requests == 2


def test_a_place_is_given_back_once() -> None:
    door = Door(max_outstanding_requests=2)
    place, _ = door.enter(), door.enter()
    place.give_back()
    place.give_back()
    assert door.admission.outstanding_requests == 1


def test_a_place_is_given_back_when_its_block_fails() -> None:
    door = Door(max_outstanding_requests=1)
    with pytest.raises(ZeroDivisionError), door.enter():
        raise ZeroDivisionError
    assert door.admission.outstanding_requests == 0


def test_the_bulk_lane_cannot_take_every_place() -> None:
    door = Door(max_outstanding_requests=4)
    for _ in range(2):
        door.enter(lane=Lane.BULK)
    with pytest.raises(QueueFull, match="bulk"):
        door.enter(lane=Lane.BULK)
    door.enter()


def test_a_tenant_with_more_than_its_share_leaves_the_last_places_to_others() -> None:
    door = Door(max_outstanding_requests=10, is_predictive=False)
    door.enter(tenant="polite")
    for _ in range(5):
        door.enter(tenant="greedy")
    with pytest.raises(RateLimited, match="share"):
        door.enter(tenant="greedy")
    door.enter(tenant="polite")


def test_a_tenant_alone_may_have_every_place() -> None:
    door = Door(max_outstanding_requests=10, is_predictive=False)
    for _ in range(10):
        door.enter(tenant="only")


def test_a_tenant_has_no_more_under_way_than_its_bulkhead_allows_whoever_else_is_there() -> None:
    door = Door(tenant_requests=2, tenant_tokens=100)
    places = [door.enter(tenant="flood", tokens=10) for _ in range(2)]
    with pytest.raises(RateLimited, match="under way") as refused:
        door.enter(tenant="flood", tokens=10)
    assert refused.value.retry_after_seconds > 0
    door.enter(tenant="calm", tokens=90)
    with pytest.raises(RateLimited, match="under way"):
        door.enter(tenant="calm", tokens=20)
    places[0].give_back()
    door.enter(tenant="flood", tokens=10)


# --- the foretold wait


def test_while_a_batch_has_room_nobody_is_refused_whatever_the_rate() -> None:
    door = Door()
    door.tell(running_requests=1, drained_tokens_per_second=0.1)
    for _ in range(7):
        door.enter()


def test_what_would_wait_beyond_the_lanes_objective_is_refused_with_the_time_until_it_would_not() -> None:
    door = Door()
    door.tell(**busy(queued=7))
    door.enter()
    with pytest.raises(QueueFull) as refusal:
        door.enter()
    assert refusal.value.retry_after_seconds == pytest.approx(0.25), "9th in the queue at 4 a second, 2 s allowed"


def test_each_refused_caller_is_told_a_later_time_so_that_they_do_not_return_together() -> None:
    door = Door()
    door.tell(**busy(queued=20))
    told = []
    for _ in range(4):
        with pytest.raises(QueueFull) as refusal:
            door.enter()
        told.append(refusal.value.retry_after_seconds)
    assert told == pytest.approx([3.25, 3.5, 3.75, 4.0])


def test_the_bulk_lane_waits_where_the_interactive_one_is_refused() -> None:
    door = Door()
    door.tell(**busy(queued=50))
    door.enter(lane=Lane.BULK)
    with pytest.raises(QueueFull):
        door.enter()


def test_what_would_not_start_before_its_deadline_is_refused_at_once() -> None:
    door = Door()
    door.tell(**busy(queued=3))
    in_half_a_second = door.clock.now_ms() + 500
    with pytest.raises(QueueFull, match="deadline"):
        door.enter(deadline_ms=in_half_a_second)
    door.enter(deadline_ms=in_half_a_second + 2_000)


def test_a_tenant_with_more_than_its_share_is_refused_earlier_and_told_that_it_is_the_caller() -> None:
    door = Door()
    door.tell(**busy(queued=0))
    door.enter(tenant="polite")
    for _ in range(3):
        door.enter(tenant="greedy")
    door.tell(**busy(queued=6))
    with pytest.raises(RateLimited, match="fair share"):
        door.enter(tenant="greedy")
    door.enter(tenant="polite")


def test_switched_off_only_the_hard_bounds_are_left() -> None:
    door = Door(is_predictive=False)
    door.tell(**busy(queued=500))
    door.enter()


# --- no rate was measured yet


def test_until_a_rate_is_known_an_adaptive_limit_bounds_what_is_under_way() -> None:
    door = Door()
    door.tell(running_requests=8, drained_tokens_per_second=0.0)
    for _ in range(64):
        door.enter()
    with pytest.raises(QueueFull, match="at a time"):
        door.enter()


def test_the_adaptive_limit_shrinks_when_answers_come_later_than_promised() -> None:
    door = Door()
    door.tell(running_requests=8, drained_tokens_per_second=0.0)
    places = [door.enter() for _ in range(8)]
    door.clock.move(3.1)
    for place in places:
        place.answered(is_our_failure=False)
        place.give_back()
    for _ in range(51):
        door.enter()
    with pytest.raises(QueueFull, match="51 requests"):
        door.enter()


# --- the pool's breaker


def end(place: Place, *, is_our_failure: bool) -> None:
    place.answered(is_our_failure=is_our_failure)
    place.give_back()


def test_a_pool_that_fails_half_of_its_requests_is_given_a_rest_and_then_tried() -> None:
    door = Door(is_predictive=False)
    for number in range(20):
        end(door.enter(), is_our_failure=number % 2 == 1)
    with pytest.raises(QueueFull, match="rest") as refusal:
        door.enter()
    assert refusal.value.retry_after_seconds == pytest.approx(10)
    door.enter(pool="another")
    door.clock.move(10)
    for _ in range(3):
        end(door.enter(), is_our_failure=False)
    for _ in range(9):
        door.enter()


def test_a_row_of_failures_of_one_caller_does_not_shut_the_pool() -> None:
    door = Door(is_predictive=False)
    for _ in range(15):
        end(door.enter(), is_our_failure=False)
    for _ in range(14):
        end(door.enter(tenant="poison"), is_our_failure=True)
    door.enter()


def test_requests_that_were_abandoned_say_nothing_of_the_pool() -> None:
    door = Door(is_predictive=False)
    for _ in range(50):
        door.enter().give_back()
    door.enter()
