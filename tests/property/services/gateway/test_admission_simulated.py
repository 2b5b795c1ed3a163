"""Admission on a simulated pool: the scenarios that docs/policies.md justifies its defaults with."""

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.admission import Admission, AdmissionRules, Seeker
from services.gateway.capacity_model import CapacityModel
from shared.contracts.errors import CapacityError
from shared.contracts.requests import Lane
from shared.resilience.clock import ManualClock
from shared.resilience.fair_shares import FairShares
from shared.settings.slo import SloSettings
from tests.fleet_simulation import BEAT_SECONDS, STEP_SECONDS, Job, SimulatedWorker

OBJECTIVE_SECONDS = 2.0
SLACK_SECONDS = 1.0
"""Heartbeats are half a second old, and rates averaged over five."""


class Simulation:
    """Open-loop callers, one gateway, some workers; the shortest queue gets the next request."""

    def __init__(self, seed: int, *, workers: int = 2, is_predictive: bool = True) -> None:
        self.clock = ManualClock()
        self.random = random.Random(seed)
        self.workers = [SimulatedWorker(f"w{number}", self.clock) for number in range(workers)]
        self.model = CapacityModel(clock=self.clock)
        self.beats = [worker.heartbeat() for worker in self.workers]
        self.admission = Admission(
            AdmissionRules(is_predictive=is_predictive, max_outstanding_requests=100_000),
            objectives=SloSettings(interactive_first_token_ms=round(OBJECTIVE_SECONDS * 1_000)),
            model=self.model,
            shares=FairShares(clock=self.clock),
            ready_workers=lambda pool: self.beats,
            clock=self.clock,
        )
        self.asked: Counter[str] = Counter()
        self.admitted: Counter[str] = Counter()
        self.told: list[float] = []
        self.due: list[tuple[float, str]] = []
        self._next_beat = 0.0
        self._debt: dict[str, float] = {}

    @property
    def capacity_per_second(self) -> float:
        """With 20 tokens needed of each."""
        return sum(worker.slots * worker.tokens_per_second for worker in self.workers) / 20

    def run(self, seconds: float, rates: Callable[[float], dict[str, float]], *, retries: bool = False) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            now = self.clock.monotonic()
            for tenant, rate in rates(now).items():
                self._debt[tenant] = self._debt.get(tenant, 0.0) + rate * STEP_SECONDS * self.random.uniform(0.5, 1.5)
                while self._debt[tenant] >= 1:
                    self._debt[tenant] -= 1
                    self.ask(tenant, retries=retries)
            back, self.due = [who for at, who in self.due if at <= now], [item for item in self.due if item[0] > now]
            for tenant in back:
                self.ask(tenant, retries=retries)
            self.step()

    def ask(self, tenant: str, *, retries: bool) -> None:
        self.asked[tenant] += 1
        tokens = 40
        try:
            place = self.admission.enter(
                Seeker(tenant=tenant, lane=Lane.INTERACTIVE, pool="default", tokens=tokens, deadline_ms=1 << 50)
            )
        except CapacityError as error:
            self.told.append(error.retry_after_seconds)
            if retries:
                self.due.append((self.clock.monotonic() + error.retry_after_seconds, tenant))
            return
        place.give_back()
        self.admitted[tenant] += 1
        job = Job(tenant, tokens, self.random.uniform(10, 30), self.clock.monotonic())
        min(self.workers, key=lambda worker: len(worker.queue) + len(worker.running)).submit(job)

    def step(self) -> None:
        self.clock.move(STEP_SECONDS)
        for worker in self.workers:
            worker.step()
        if self.clock.monotonic() >= self._next_beat:
            self._next_beat = self.clock.monotonic() + BEAT_SECONDS
            self.beats = [worker.heartbeat() for worker in self.workers]
            for beat in self.beats:
                self.model.observe(beat)

    def done(self, *, after: float = 0.0, tenant: str | None = None) -> list[Job]:
        jobs = [job for worker in self.workers for job in worker.done if job.came_at >= after]
        return [job for job in jobs if tenant is None or job.name == tenant]

    def goodput(self, *, after: float) -> float:
        """Answers a second that began within the objective."""
        ended = [job for job in self.done() if job.ended_at >= after]
        good = [job for job in ended if job.waited <= OBJECTIVE_SECONDS + SLACK_SECONDS]
        return len(good) / (self.clock.monotonic() - after)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1_000_000), factor=st.floats(1.5, 8.0))
def test_beyond_capacity_what_is_admitted_keeps_its_objective_and_the_workers_stay_busy(
    seed: int, factor: float
) -> None:
    pool = Simulation(seed)
    rate = factor * pool.capacity_per_second
    pool.run(40, lambda now: {"all": rate})
    waits = sorted(job.waited for job in pool.done(after=10))
    assert waits[int(0.99 * len(waits))] <= OBJECTIVE_SECONDS + SLACK_SECONDS, "the objective is one for 99 of 100"
    assert waits[-1] <= OBJECTIVE_SECONDS + 2 * SLACK_SECONDS, "and nobody is left far behind it"
    assert pool.goodput(after=10) >= 0.92 * pool.capacity_per_second


def test_without_admission_the_same_load_leaves_nobody_within_the_objective() -> None:
    pool = Simulation(1, is_predictive=False)
    rate = 5 * pool.capacity_per_second
    pool.run(40, lambda now: {"all": rate})
    assert pool.goodput(after=10) < 0.1 * pool.capacity_per_second


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_below_capacity_hardly_anybody_is_refused(seed: int) -> None:
    pool = Simulation(seed)
    rate = 0.7 * pool.capacity_per_second
    pool.run(40, lambda now: {"all": rate})
    # A rate first measured while a batch had just become full is too low for a moment: seed 250141, one of 226.
    assert pool.admitted["all"] >= 0.99 * pool.asked["all"]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_a_tenant_that_floods_at_twenty_times_leaves_the_others_what_they_ask_for(seed: int) -> None:
    pool = Simulation(seed)
    fair = 0.2 * pool.capacity_per_second
    pool.run(15, lambda now: {"polite": fair})
    before = pool.asked["polite"]
    pool.run(40, lambda now: {"polite": fair, "flood": 20 * fair})
    polite = pool.admitted["polite"] / pool.asked["polite"]
    assert pool.asked["polite"] > before
    assert polite >= 0.95
    assert pool.admitted["flood"] / pool.asked["flood"] < 0.5
    assert max(job.waited for job in pool.done(tenant="polite")) <= OBJECTIVE_SECONDS + SLACK_SECONDS


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_a_retry_storm_comes_back_spread_out_and_is_served(seed: int) -> None:
    """A burst of ten seconds' work at once, everybody obeys Retry-After: all are answered in about that time."""
    pool = Simulation(seed)
    pool.run(10, lambda now: {"calm": pool.capacity_per_second * 1.2}, retries=True)
    burst = round(10 * pool.capacity_per_second)
    for _ in range(burst):
        pool.ask("burst", retries=True)
    pool.run(40, lambda now: {}, retries=True)
    assert pool.admitted["burst"] == burst
    assert pool.asked["burst"] <= 4 * burst, "nobody is sent away again and again"
    assert max(job.waited for job in pool.done()) <= OBJECTIVE_SECONDS + SLACK_SECONDS


def test_a_worker_at_a_tenth_of_its_speed_lowers_what_is_admitted_to_what_is_left() -> None:
    pool = Simulation(3)
    rate = 3 * pool.capacity_per_second
    pool.run(15, lambda now: {"all": rate})
    pool.workers[1].tokens_per_second /= 10
    slowed_at = pool.clock.monotonic()
    pool.run(60, lambda now: {"all": rate})
    before = [job for job in pool.workers[0].done if job.came_at >= slowed_at + 20]
    assert before
    assert max(job.waited for job in before) <= OBJECTIVE_SECONDS + SLACK_SECONDS


def test_after_an_overload_it_recovers_within_ten_seconds() -> None:
    pool = Simulation(4)
    pool.run(30, lambda now: {"all": 5 * pool.capacity_per_second})
    pool.run(10, lambda now: {"all": 0.5 * pool.capacity_per_second})
    asked, admitted = pool.asked["all"], pool.admitted["all"]
    since = pool.clock.monotonic()
    pool.run(10, lambda now: {"all": 0.5 * pool.capacity_per_second})
    assert pool.admitted["all"] - admitted == pool.asked["all"] - asked
    assert max(job.waited for job in pool.done(after=since)) < 0.2
