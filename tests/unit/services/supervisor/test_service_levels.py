"""Error budgets from counters that come with heartbeats."""

from typing import Any

import pytest

from services.supervisor.service_levels import EVERYBODY, Level, LevelReport, ServiceLevelBook, worst_first
from shared.contracts.fleet import ServiceLevelCount
from shared.settings.slo import SloSettings
from tests.unit.services.supervisor.builders import heartbeat

OBJECTIVES = SloSettings(availability_target=0.99, first_token_target=0.9, inter_token_target=0.9)


class Counters:
    """A worker whose counters grow; each `more` is one heartbeat."""

    def __init__(self, book: ServiceLevelBook, worker: str = "w-0") -> None:
        self.book = book
        self.worker = worker
        self.number = 0
        self.life = "a"
        self.counts: dict[str, int] = {}

    def more(self, now: float, *, tenant: str = "acme", **more: int) -> None:
        self.number += 1
        for name, value in more.items():
            self.counts[name] = self.counts.get(name, 0) + value
        self.tell(now, tenant, **self.counts)

    def tell(self, now: float, tenant: str = "acme", **counts: Any) -> None:
        count = ServiceLevelCount(lane="interactive", tenant=tenant, **counts)
        beat = heartbeat(self.worker, self.number, life=self.life, service_levels=(count,))
        self.book.observe(beat, now=now)


@pytest.fixture
def book() -> ServiceLevelBook:
    return ServiceLevelBook(OBJECTIVES)


def report(book: ServiceLevelBook, now: float, level: Level = Level.AVAILABILITY, tenant: str = "acme") -> LevelReport:
    (found,) = [entry for entry in book.reports(now=now) if (entry.tenant, entry.level) == (tenant, level)]
    return found


def test_the_budget_is_what_the_target_allows_and_failures_spend_it(book: ServiceLevelBook) -> None:
    worker = Counters(book)
    worker.more(0, requests=1_000, failed=4)
    found = report(book, 1)
    assert (found.events, found.bad) == (1_000, 4)
    assert found.budget_left == pytest.approx(0.6)


def test_each_objective_has_its_own_events(book: ServiceLevelBook) -> None:
    Counters(book).more(0, requests=100, first_tokens=90, late_first_tokens=9, streams=50, slow_streams=20)
    assert report(book, 1, Level.FIRST_TOKEN).budget_left == pytest.approx(0.0)
    assert report(book, 1, Level.INTER_TOKEN).budget_left == pytest.approx(-3.0)
    assert report(book, 1).budget_left == 1.0


def test_everybody_together_is_a_line_of_its_own(book: ServiceLevelBook) -> None:
    first, second = Counters(book, "w-0"), Counters(book, "w-1")
    first.more(0, requests=10, failed=1)
    second.more(0, tenant="other", requests=30)
    assert (report(book, 1, tenant=EVERYBODY).events, report(book, 1, tenant=EVERYBODY).bad) == (40, 1)


def test_a_repeated_or_late_heartbeat_counts_nothing_twice(book: ServiceLevelBook) -> None:
    worker = Counters(book)
    worker.more(0, requests=10)
    worker.more(1, requests=10)
    worker.tell(2, requests=20)
    worker.tell(3, requests=10)
    assert report(book, 4).events == 20


def test_a_lost_heartbeat_loses_nothing(book: ServiceLevelBook) -> None:
    worker = Counters(book)
    worker.more(0, requests=10)
    worker.number += 3
    worker.more(5, requests=70)
    assert report(book, 6).events == 80


def test_a_new_life_starts_at_zero_and_a_life_met_in_its_middle_at_what_it_has(book: ServiceLevelBook) -> None:
    worker = Counters(book)
    worker.more(0, requests=10)
    worker.life, worker.number, worker.counts = "b", 0, {}
    worker.more(1, requests=5)
    stranger = Counters(book, "w-9")
    stranger.number, stranger.counts = 70, {"requests": 1_000}
    stranger.more(2, requests=3)
    assert report(book, 3).events == 15
    stranger.more(3, requests=4)
    assert report(book, 4).events == 19


def steadily(book: ServiceLevelBook, *, hours: float, failed_of_100: int, since: float = 0.0) -> float:
    """A hundred requests a minute."""
    worker = Counters(book)
    worker.life = f"since{since}"
    now = since
    for _ in range(round(hours * 60)):
        now += 60
        worker.more(now, requests=100, failed=failed_of_100)
    return now


def test_burn_is_one_when_exactly_the_allowed_share_fails(book: ServiceLevelBook) -> None:
    now = steadily(book, hours=7, failed_of_100=1)
    assert report(book, now).burn == pytest.approx({300: 1, 1_800: 1, 3_600: 1, 21_600: 1, 259_200: 1})


def test_a_fast_burn_pages_and_stops_soon_after_it_is_over(book: ServiceLevelBook) -> None:
    now = steadily(book, hours=1, failed_of_100=20)
    assert report(book, now).alert == "page"
    now = steadily(book, hours=0.25, failed_of_100=0, since=now)
    assert report(book, now).burn[3_600] > 14.4
    assert report(book, now).burn[300] == 0
    assert report(book, now).alert != "page" or report(book, now).burn[1_800] >= 6


def test_a_slow_burn_is_a_ticket(book: ServiceLevelBook) -> None:
    now = steadily(book, hours=73, failed_of_100=2)
    assert report(book, now).alert == "ticket"


def test_a_short_blip_is_no_alert(book: ServiceLevelBook) -> None:
    now = steadily(book, hours=6, failed_of_100=0)
    now = steadily(book, hours=0.05, failed_of_100=50, since=now)
    assert report(book, now).alert == ""
    assert report(book, now).burn[300] > 14.4


def test_one_failure_of_two_requests_says_nothing(book: ServiceLevelBook) -> None:
    Counters(book).more(0, requests=2, failed=1)
    assert report(book, 1).burn[300] == 0
    assert book.fastest_burn(now=1) == 0


def test_the_fastest_burn_is_everybodys_worst_objective(book: ServiceLevelBook) -> None:
    Counters(book).more(0, requests=100, failed=5, first_tokens=100, late_first_tokens=20)
    assert book.fastest_burn(now=1) == pytest.approx(5.0)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    book = ServiceLevelBook(OBJECTIVES.model_copy(update={"window_hours": 2}))
    worker = Counters(book)
    worker.more(0, requests=100, failed=50)
    worker.more(4 * 3_600, requests=100)
    assert (report(book, 4 * 3_600).events, report(book, 4 * 3_600).bad) == (100, 0)


def test_what_alarms_comes_first_then_what_has_the_least_budget(book: ServiceLevelBook) -> None:
    now = steadily(book, hours=1, failed_of_100=20)
    Counters(book, "w-2").more(now, tenant="calm", requests=100)
    order = [(entry.tenant, bool(entry.alert)) for entry in worst_first(book.reports(now=now))]
    assert order[-1] == ("calm", False) or not order[-1][1]
    assert order[0][1]
