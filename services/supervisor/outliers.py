"""Which workers are much slower than their pool: their step time against the median of the others. Pure.

A floor bounds how many may be ejected, however slow: a pool that is slow as a whole is a matter for scaling, not for
quarantine. Refuses to know what ejection is.
"""

import statistics
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from services.supervisor.fleet import FleetView, Member, MemberState
from shared.contracts.identifiers import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierRules:
    slow_factor: float = 2.5
    """So many times the median step time of the pool's others."""
    most_ejected_share: float = 0.5
    """Of a pool's living workers, rounded down; who is ejected already counts."""

    def __post_init__(self) -> None:
        if self.slow_factor <= 1 or not 0 <= self.most_ejected_share < 1:
            raise ValueError("need slow_factor above 1 and most_ejected_share in 0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    worker_id: WorkerId
    ratio: float


def find_outliers(view: FleetView, *, ejected: Collection[WorkerId], rules: OutlierRules) -> list[Outlier]:
    """Who should be ejected now, the slowest first, within the floor. Those in `ejected` are out already."""
    pools: dict[str, list[Member]] = defaultdict(list)
    for member in view.living():
        pools[member.heartbeat.pool].append(member)
    return [outlier for members in pools.values() for outlier in _of_pool(members, ejected, rules)]


def _of_pool(members: list[Member], ejected: Collection[WorkerId], rules: OutlierRules) -> list[Outlier]:
    out = sum(member.heartbeat.worker_id in ejected for member in members)
    room = int(len(members) * rules.most_ejected_share) - out
    judged = [
        member
        for member in members
        if member.state is MemberState.READY
        and member.heartbeat.step_seconds > 0
        and member.heartbeat.worker_id not in ejected
    ]
    if room <= 0 or len(judged) < 2:
        return []
    found = []
    for member in judged:
        others = [other.heartbeat.step_seconds for other in judged if other is not member]
        ratio = member.heartbeat.step_seconds / statistics.median(others)
        if ratio >= rules.slow_factor:
            found.append(Outlier(worker_id=member.heartbeat.worker_id, ratio=ratio))
    return sorted(found, key=lambda outlier: -outlier.ratio)[:room]
