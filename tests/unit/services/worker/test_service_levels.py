"""What a worker counts of its requests against their objectives."""

import pytest

from services.worker.service_levels import MOST_TENANTS, OTHERS, ServiceLevels
from shared.contracts.fleet import ServiceLevelCount
from shared.contracts.requests import Lane
from shared.settings.slo import SloSettings

OBJECTIVES = SloSettings(interactive_first_token_ms=1_000, interactive_inter_token_ms=100, bulk_first_token_ms=60_000)


@pytest.fixture
def levels() -> ServiceLevels:
    return ServiceLevels(OBJECTIVES)


def only(levels: ServiceLevels) -> ServiceLevelCount:
    (count,) = levels.counts()
    return count


def test_a_first_token_is_late_after_its_objective_and_not_before(levels: ServiceLevels) -> None:
    for waited in (0.2, 1.0, 1.001):
        levels.first_token(Lane.INTERACTIVE, "acme", waited)
    assert (only(levels).first_tokens, only(levels).late_first_tokens) == (3, 1)


def test_each_lane_has_its_own_objective_and_its_own_line(levels: ServiceLevels) -> None:
    levels.first_token(Lane.INTERACTIVE, "acme", 30.0)
    levels.first_token(Lane.BULK, "acme", 30.0)
    late = {count.lane: count.late_first_tokens for count in levels.counts()}
    assert late == {"interactive": 1, "bulk": 0}


def test_an_answer_is_slow_by_the_mean_time_between_its_tokens(levels: ServiceLevels) -> None:
    levels.stream(Lane.INTERACTIVE, "acme", num_tokens=11, seconds=1.0)
    levels.stream(Lane.INTERACTIVE, "acme", num_tokens=11, seconds=1.2)
    assert (only(levels).streams, only(levels).slow_streams) == (2, 1)


def test_an_answer_of_one_token_has_no_time_between_tokens(levels: ServiceLevels) -> None:
    levels.stream(Lane.INTERACTIVE, "acme", num_tokens=1, seconds=0.0)
    assert levels.counts() == ()


def test_only_our_failures_are_failures(levels: ServiceLevels) -> None:
    levels.ended(Lane.INTERACTIVE, "acme", is_our_failure=False)
    levels.ended(Lane.INTERACTIVE, "acme", is_our_failure=True)
    assert (only(levels).requests, only(levels).failed) == (2, 1)


def test_tenants_that_producers_invent_share_a_line_beyond_the_limit(levels: ServiceLevels) -> None:
    for number in range(3 * MOST_TENANTS):
        levels.ended(Lane.BULK, f"t{number}", is_our_failure=False)
    levels.ended(Lane.BULK, "t0", is_our_failure=True)
    counts = {count.tenant: count for count in levels.counts()}
    assert len(counts) == MOST_TENANTS + 1
    assert counts[OTHERS].requests == 2 * MOST_TENANTS
    assert counts["t0"].requests == 2
