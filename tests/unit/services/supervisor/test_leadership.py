import pytest

from services.supervisor.leadership import Leadership
from shared.contracts.errors import LedgerUnavailable
from shared.resilience.clock import ManualClock


class Ballot:
    """Answers elections as told; the time that an answer takes passes on the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.answer: int | None = 1
        self.takes_seconds = 0.0
        self.is_away = False
        self.resigned = 0

    async def elect(self, name: str, *, ttl_ms: int) -> int | None:
        assert (name, ttl_ms) == ("supervisor", 1_000)
        self.clock.move(self.takes_seconds)
        if self.is_away:
            raise LedgerUnavailable("away")
        return self.answer

    async def resign(self, name: str) -> bool:
        self.resigned += 1
        return True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ballot(clock: ManualClock) -> Ballot:
    return Ballot(clock)


@pytest.fixture
def leadership(ballot: Ballot, clock: ManualClock) -> Leadership:
    return Leadership(ballot, ttl_ms=1_000, clock=clock)


async def test_nobody_leads_before_an_election(leadership: Leadership) -> None:
    assert not leadership.is_leader
    assert leadership.fence is None


async def test_winning_is_news_once(leadership: Leadership) -> None:
    assert await leadership.campaign()
    assert leadership.is_leader
    assert not await leadership.campaign()
    assert leadership.fence == 1


async def test_losing_is_not_leading(leadership: Leadership, ballot: Ballot) -> None:
    ballot.answer = None
    assert not await leadership.campaign()
    assert not leadership.is_leader


async def test_a_leader_that_cannot_renew_stops_by_its_own_clock(
    leadership: Leadership, ballot: Ballot, clock: ManualClock
) -> None:
    await leadership.campaign()
    ballot.is_away = True
    with pytest.raises(LedgerUnavailable):
        await leadership.campaign()
    clock.move(0.999)
    assert leadership.is_leader
    clock.move(0.001)
    assert not leadership.is_leader
    assert leadership.fence is None


async def test_the_lease_counts_from_the_question_not_from_a_slow_answer(
    leadership: Leadership, ballot: Ballot
) -> None:
    ballot.takes_seconds = 1.5
    assert not await leadership.campaign()
    assert not leadership.is_leader
    ballot.takes_seconds = 0.0
    assert await leadership.campaign()
    assert leadership.fence == 1


async def test_being_elected_again_after_somebody_else_is_news(leadership: Leadership, ballot: Ballot) -> None:
    await leadership.campaign()
    ballot.answer = None
    await leadership.campaign()
    ballot.answer = 3
    assert await leadership.campaign()
    assert leadership.fence == 3


async def test_only_a_leader_resigns(leadership: Leadership, ballot: Ballot) -> None:
    await leadership.resign()
    assert ballot.resigned == 0
    await leadership.campaign()
    await leadership.resign()
    assert ballot.resigned == 1
    assert not leadership.is_leader
