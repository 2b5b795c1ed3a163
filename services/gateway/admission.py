"""Who may come in now, and when a refused caller should come back. Pure but for its clock.

In this order, each with its own error: the places of this gateway, of a lane and of a tenant, the pool's circuit
breaker, the wait that the heartbeats foretell against the lane's objective and the request's deadline, and, where no
rate was ever measured, an adaptive limit. Who has had more than a fair share stops earlier: there is room for others.
The place is taken in the same step as the check, so that a burst cannot slip in between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from services.gateway.capacity_model import CapacityModel, Forecast
from services.gateway.retry_times import RetryTimes
from shared.contracts.errors import CapacityError, QueueFull, RateLimited
from shared.contracts.fleet import Heartbeat
from shared.contracts.requests import Lane
from shared.resilience.adaptive_limit import AdaptiveLimit
from shared.resilience.breaker_rules import BreakerRules
from shared.resilience.bulkhead import Bulkhead
from shared.resilience.circuit_breaker import Attempt, CircuitBreaker
from shared.resilience.clock import Clock
from shared.resilience.fair_shares import FairShares
from shared.settings.slo import SloSettings
from shared.telemetry.breaker_reports import BreakerReports


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRules:
    """`is_predictive` False leaves only the hard bounds: for comparison."""

    max_outstanding_requests: int = 2_048
    bulk_share: float = 0.5
    """Of the places, for the bulk lane."""
    greedy_share: float = 0.6
    """Of the objective and of the places, for tenants that had more than their fair share."""
    tenant_requests: int | None = None
    tenant_tokens: int | None = None
    """Under way at a time of one tenant, whoever else is there; tokens as asked for."""
    is_predictive: bool = True


_LEAST_INITIAL = 64
_INITIAL_BATCHES = 4
"""How many batches' worth of requests a pool is trusted with before it was ever full."""

POOL_BREAKER = BreakerRules(
    # A row of failures may be one caller's poison; half of many different requests is the pool.
    failures_to_open=1_000_000,
    window_seconds=30.0,
    failure_rate=0.5,
    least_attempts=20,
    open_seconds=10.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeker:
    """A request at the door. `tokens`: how many output tokens it asks for."""

    tenant: str
    lane: Lane
    pool: str
    tokens: int
    deadline_ms: int


class Place:
    """One admitted request. Given back once, however often it is closed."""

    __slots__ = ("_admission", "_attempt", "_is_held", "entered_at", "seeker", "ticket")

    def __init__(
        self, admission: "Admission", seeker: Seeker, attempt: Attempt, *, entered_at: float, ticket: int
    ) -> None:
        self._admission = admission
        self._attempt = attempt
        self._is_held = True
        self.seeker = seeker
        self.entered_at = entered_at
        self.ticket = ticket

    def answered(self, *, is_our_failure: bool) -> None:
        """Its terminal is known. Without this the place says nothing about its pool."""
        if is_our_failure:
            self._attempt.failed()
        else:
            self._attempt.succeeded()
        self._admission._ended(self, is_good=not is_our_failure)

    def give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._attempt.abandoned()
            self._admission._left(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


class Admission:
    """One per gateway. `ready_workers` are those that would serve a pool now."""

    def __init__(
        self,
        rules: AdmissionRules,
        *,
        objectives: SloSettings,
        model: CapacityModel,
        shares: FairShares,
        ready_workers: Callable[[str], Sequence[Heartbeat]],
        clock: Clock,
    ) -> None:
        self._rules = rules
        self._objectives = objectives
        self._model = model
        self._shares = shares
        self._ready_workers = ready_workers
        self._clock = clock
        self._retry_times = RetryTimes(clock=clock)
        self._outstanding: dict[tuple[str, Lane], int] = {}
        self._tenants = Bulkhead(most=rules.tenant_requests, most_amount=rules.tenant_tokens)
        self._limits: dict[str, AdaptiveLimit] = {}
        self._breakers: dict[str, CircuitBreaker] = {}

    @property
    def outstanding_requests(self) -> int:
        return sum(self._outstanding.values())

    def enter(self, seeker: Seeker) -> Place:
        """Take a place. Raises `QueueFull` or `RateLimited` with a true `retry_after_seconds`."""
        self._shares.asked(seeker.tenant)
        is_greedy = self._shares.is_over(seeker.tenant)
        self._refuse_without_a_place(seeker, is_greedy)
        if self._rules.is_predictive:
            self._refuse_what_would_wait(seeker, is_greedy)
        attempt = self._breaker(seeker.pool).attempt()
        if attempt is None:
            wait = max(0.1, self._breaker(seeker.pool).retry_after_seconds)
            raise QueueFull("most requests of this model failed lately; it is given a rest", retry_after_seconds=wait)
        key = (seeker.pool, seeker.lane)
        self._outstanding[key] = self._outstanding.get(key, 0) + 1
        self._tenants.enter(seeker.tenant, seeker.tokens)
        self._shares.got(seeker.tenant, max(1, seeker.tokens))
        ticket = self._model.admitted(seeker.pool, max(1, seeker.tokens))
        return Place(self, seeker, attempt, entered_at=self._clock.monotonic(), ticket=ticket)

    def _refuse_without_a_place(self, seeker: Seeker, is_greedy: bool) -> None:
        rules = self._rules
        most = rules.max_outstanding_requests
        if not self._tenants.is_open(seeker.tenant, seeker.tokens):
            wait = self._retry_times.until_a_departure()
            raise RateLimited("the tenant has as much under way as it may have", retry_after_seconds=wait)
        if seeker.lane is Lane.BULK:
            in_lane = sum(count for (_, lane), count in self._outstanding.items() if lane is Lane.BULK)
            if in_lane >= max(1, int(most * rules.bulk_share)):
                raise self._full(f"this gateway already waits for {in_lane} bulk requests")
        if self.outstanding_requests >= most:
            raise self._full(f"this gateway already waits for {most} requests")
        if is_greedy and self.outstanding_requests >= most * rules.greedy_share:
            wait = self._retry_times.until_a_departure()
            raise RateLimited("the tenant has more than its share of this gateway", retry_after_seconds=wait)

    def _full(self, message: str) -> QueueFull:
        return QueueFull(message, retry_after_seconds=self._retry_times.until_a_departure())

    def _refuse_what_would_wait(self, seeker: Seeker, is_greedy: bool) -> None:
        forecast = self._model.forecast(seeker.pool, self._ready_workers(seeker.pool))
        if forecast.wait_seconds is None:
            self._refuse_beyond_the_adaptive_limit(seeker)
            return
        bound = self._objectives.first_token_seconds(seeker.lane)
        if is_greedy:
            bound *= self._rules.greedy_share
        if forecast.wait_seconds > bound:
            raise self._too_long(seeker, forecast, bound, is_greedy=is_greedy)
        left = (seeker.deadline_ms - self._clock.now_ms()) / 1_000
        needed = forecast.wait_seconds + forecast.seconds_per_token
        if needed > left > 0 and forecast.wait_seconds > 0:
            message = f"it would not start before its deadline: {forecast.wait_seconds:.1f} s of work are ahead of it"
            raise QueueFull(message, retry_after_seconds=self._retry_times.after(forecast.wait_seconds, 0.0))

    def _too_long(self, seeker: Seeker, forecast: Forecast, bound: float, *, is_greedy: bool) -> CapacityError:
        assert forecast.wait_seconds is not None
        turn = 1 / forecast.requests_per_second if forecast.requests_per_second else 0.0
        wait = self._retry_times.after(forecast.wait_seconds - bound, turn)
        ahead = f"{forecast.wait_seconds:.1f} s of work are ahead of it"
        if is_greedy:
            return RateLimited(f"the tenant has more than its fair share, and {ahead}", retry_after_seconds=wait)
        return QueueFull(f"it would wait too long: {ahead}", retry_after_seconds=wait)

    def _refuse_beyond_the_adaptive_limit(self, seeker: Seeker) -> None:
        limit = self._limit(seeker.pool).limit
        if self._in_pool(seeker.pool) >= limit:
            raise self._full(f"the model is given {limit} requests at a time until its speed is known")

    def _limit(self, pool: str) -> AdaptiveLimit:
        if pool not in self._limits:
            slots = sum(worker.max_running_requests for worker in self._ready_workers(pool))
            initial = max(_LEAST_INITIAL, _INITIAL_BATCHES * slots)
            self._limits[pool] = AdaptiveLimit(clock=self._clock, initial=initial, least=2)
        return self._limits[pool]

    def _breaker(self, pool: str) -> CircuitBreaker:
        if pool not in self._breakers:
            self._breakers[pool] = CircuitBreaker(
                POOL_BREAKER, clock=self._clock, listener=BreakerReports("pool", pool)
            )
        return self._breakers[pool]

    def _in_pool(self, pool: str) -> int:
        return sum(count for (name, _), count in self._outstanding.items() if name == pool)

    def _ended(self, place: Place, *, is_good: bool) -> None:
        """Good is: within the time that its lane promises for as many tokens as it asked for."""
        seeker = place.seeker
        self._model.answered(seeker.pool, place.ticket)
        took = self._clock.monotonic() - place.entered_at
        promised = self._objectives.first_token_seconds(seeker.lane)
        promised += seeker.tokens * self._objectives.inter_token_seconds(seeker.lane)
        self._limit(seeker.pool).ended(
            is_good=is_good and took <= promised, under_way=max(1, self._in_pool(seeker.pool))
        )

    def _left(self, place: Place) -> None:
        self._outstanding[place.seeker.pool, place.seeker.lane] -= 1
        self._tenants.leave(place.seeker.tenant, place.seeker.tokens)
        self._retry_times.departed()
