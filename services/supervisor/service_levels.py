"""Error budgets and how fast they burn, by lane and tenant, from the counters in heartbeats. Pure; time is given.

Burn rate 1 spends the budget exactly in its window. An alert needs two windows at once: the long one that it matters,
the short one that it still goes on.

Source: B. Beyer et al., "The Site Reliability Workbook", chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from shared.contracts.fleet import Heartbeat, ServiceLevelCount
from shared.contracts.identifiers import Incarnation
from shared.settings.slo import SloSettings

EVERYBODY = "*"
_FINE_SECONDS = 60
_COARSE_SECONDS = 3_600
_FINE_KEPT_SECONDS = 6 * 3_600 + _FINE_SECONDS


class Level(StrEnum):
    AVAILABILITY = "availability"
    FIRST_TOKEN = "first-token"
    INTER_TOKEN = "inter-token"


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnAlert:
    name: str
    long_seconds: int
    short_seconds: int
    burn: float


ALERTS = (
    BurnAlert(name="page", long_seconds=3_600, short_seconds=300, burn=14.4),
    BurnAlert(name="page", long_seconds=6 * 3_600, short_seconds=1_800, burn=6.0),
    BurnAlert(name="ticket", long_seconds=72 * 3_600, short_seconds=6 * 3_600, burn=1.0),
)
_LEAST_EVENTS = 10
"""A window with fewer says nothing: one failure of two requests at night wakes nobody."""


@dataclass(slots=True)
class _Buckets:
    """Events and bad events by time: minutes for six hours, hours for the whole window."""

    fine: deque[list[int]] = field(default_factory=deque)
    coarse: deque[list[int]] = field(default_factory=deque)

    def add(self, now: float, events: int, bad: int, window_seconds: float) -> None:
        for buckets, size, kept in (
            (self.fine, _FINE_SECONDS, _FINE_KEPT_SECONDS),
            (self.coarse, _COARSE_SECONDS, window_seconds),
        ):
            start = int(now // size) * size
            if not buckets or buckets[-1][0] != start:
                buckets.append([start, 0, 0])
            buckets[-1][1] += events
            buckets[-1][2] += bad
            while buckets[0][0] <= now - kept - size:
                buckets.popleft()

    def within(self, now: float, seconds: float) -> tuple[int, int]:
        """Events and bad events of the last `seconds`, by whole buckets."""
        buckets, size = (self.fine, _FINE_SECONDS) if seconds <= _FINE_KEPT_SECONDS else (self.coarse, _COARSE_SECONDS)
        events = bad = 0
        for start, number, bad_number in reversed(buckets):
            if start + size <= now - seconds:
                break
            events += number
            bad += bad_number
        return events, bad


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """One objective of one lane and tenant. `burn` by window in seconds; `budget_left` falls below 0 when overspent."""

    lane: str
    tenant: str
    level: Level
    target: float
    events: int
    bad: int
    budget_left: float
    burn: dict[int, float]
    alert: str


class ServiceLevelBook:
    def __init__(self, objectives: SloSettings) -> None:
        self._targets = {
            Level.AVAILABILITY: objectives.availability_target,
            Level.FIRST_TOKEN: objectives.first_token_target,
            Level.INTER_TOKEN: objectives.inter_token_target,
        }
        self._window_seconds = objectives.window_hours * 3_600
        self._seen: dict[Incarnation, dict[tuple[str, str], ServiceLevelCount]] = {}
        self._buckets: dict[tuple[str, str, Level], _Buckets] = {}

    def observe(self, heartbeat: Heartbeat, *, now: float) -> None:
        """Counters only grow within one life; what is less than before is late and changes nothing."""
        is_new = heartbeat.incarnation not in self._seen
        known = self._seen.setdefault(heartbeat.incarnation, {})
        for count in heartbeat.service_levels:
            key = (count.lane, count.tenant)
            before = known.get(key) or (count if is_new and heartbeat.sequence_number > 1 else None)
            before = before or ServiceLevelCount(lane=count.lane, tenant=count.tenant)
            if _total(count) < _total(before):
                continue
            known[key] = count
            for level, (events, bad) in _difference(before, count):
                if events or bad:
                    self._add(count.lane, count.tenant, level, events, bad, now)
                    self._add(count.lane, EVERYBODY, level, events, bad, now)
        if len(self._seen) > 1_000:
            del self._seen[next(iter(self._seen))]

    def reports(self, *, now: float) -> list[LevelReport]:
        return [
            self._report(lane, tenant, level, buckets, now)
            for (lane, tenant, level), buckets in sorted(self._buckets.items())
        ]

    def fastest_burn(self, *, now: float) -> float:
        """Over five minutes, of everybody's objectives: what scaling listens to."""
        return max(
            (
                self._burn(level, buckets, now, 300)
                for (_, tenant, level), buckets in self._buckets.items()
                if tenant == EVERYBODY
            ),
            default=0.0,
        )

    def _add(self, lane: str, tenant: str, level: Level, events: int, bad: int, now: float) -> None:
        buckets = self._buckets.setdefault((lane, tenant, level), _Buckets())
        buckets.add(now, events, bad, self._window_seconds)

    def _burn(self, level: Level, buckets: _Buckets, now: float, seconds: float) -> float:
        events, bad = buckets.within(now, seconds)
        return 0.0 if events < _LEAST_EVENTS else bad / events / (1 - self._targets[level])

    def _report(self, lane: str, tenant: str, level: Level, buckets: _Buckets, now: float) -> LevelReport:
        events, bad = buckets.within(now, self._window_seconds)
        windows = sorted({seconds for alert in ALERTS for seconds in (alert.long_seconds, alert.short_seconds)})
        burn = {seconds: self._burn(level, buckets, now, seconds) for seconds in windows}
        allowed = events * (1 - self._targets[level])
        firing = [
            alert.name for alert in ALERTS if min(burn[alert.long_seconds], burn[alert.short_seconds]) >= alert.burn
        ]
        return LevelReport(
            lane=lane,
            tenant=tenant,
            level=level,
            target=self._targets[level],
            events=events,
            bad=bad,
            budget_left=1.0 if not events else 1 - bad / allowed,
            burn=burn,
            alert=firing[0] if firing else "",
        )


def _total(count: ServiceLevelCount) -> int:
    return count.requests + count.first_tokens + count.streams


def _difference(before: ServiceLevelCount, after: ServiceLevelCount) -> Iterator[tuple[Level, tuple[int, int]]]:
    yield Level.AVAILABILITY, (after.requests - before.requests, after.failed - before.failed)
    yield (
        Level.FIRST_TOKEN,
        (after.first_tokens - before.first_tokens, after.late_first_tokens - before.late_first_tokens),
    )
    yield Level.INTER_TOKEN, (after.streams - before.streams, after.slow_streams - before.slow_streams)


def worst_first(reports: Iterable[LevelReport]) -> list[LevelReport]:
    return sorted(reports, key=lambda report: (not report.alert, report.budget_left, report.lane, report.tenant))
