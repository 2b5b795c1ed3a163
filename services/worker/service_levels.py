"""Counts, by lane and tenant, what this worker's requests got and how much of it missed its objective. Pure.

Counters only grow; a heartbeat carries them all, so that a lost one loses nothing. Refuses to know targets and budgets.
"""

from dataclasses import dataclass

from shared.contracts.fleet import ServiceLevelCount
from shared.contracts.requests import Lane
from shared.settings.slo import SloSettings

MOST_TENANTS = 64
OTHERS = "(others)"
"""Tenants beyond the limit share a line: a heartbeat stays small whatever keys producers invent."""


@dataclass(slots=True)
class _Counter:
    requests: int = 0
    failed: int = 0
    first_tokens: int = 0
    late_first_tokens: int = 0
    streams: int = 0
    slow_streams: int = 0


class ServiceLevels:
    def __init__(self, objectives: SloSettings) -> None:
        self._objectives = objectives
        self._counters: dict[tuple[Lane, str], _Counter] = {}

    def ended(self, lane: Lane, tenant: str, *, is_our_failure: bool) -> None:
        counter = self._of(lane, tenant)
        counter.requests += 1
        counter.failed += is_our_failure

    def first_token(self, lane: Lane, tenant: str, waited_seconds: float) -> None:
        counter = self._of(lane, tenant)
        counter.first_tokens += 1
        counter.late_first_tokens += waited_seconds > self._objectives.first_token_seconds(lane)

    def stream(self, lane: Lane, tenant: str, *, num_tokens: int, seconds: float) -> None:
        """One answer's tokens, from the first to the last. Answers of one token have no time between tokens."""
        if num_tokens < 2:
            return
        counter = self._of(lane, tenant)
        counter.streams += 1
        counter.slow_streams += seconds / (num_tokens - 1) > self._objectives.inter_token_seconds(lane)

    def counts(self) -> tuple[ServiceLevelCount, ...]:
        return tuple(
            ServiceLevelCount(
                lane=lane.value,
                tenant=tenant,
                requests=counter.requests,
                failed=counter.failed,
                first_tokens=counter.first_tokens,
                late_first_tokens=counter.late_first_tokens,
                streams=counter.streams,
                slow_streams=counter.slow_streams,
            )
            for (lane, tenant), counter in self._counters.items()
        )

    def _of(self, lane: Lane, tenant: str) -> _Counter:
        key = (lane, tenant)
        if key not in self._counters and len(self._counters) >= MOST_TENANTS:
            key = (lane, OTHERS)
        return self._counters.setdefault(key, _Counter())
