"""How many workers a pool should have: a reducer over its load and the time. Pure.

    wanted = max( ceil(backlog tokens / (drain seconds x tokens per second of a worker)),
                  ceil(workers x utilisation / target utilisation),
                  workers + 1 while the error budget burns fast )

Up at once but in steps; down by one, only after the wish was lower for a while, and never soon after another change.
To nothing after long idleness, if the bounds allow it. A backlog that will be gone before a new worker could start
(the measured cold start) wants nobody. Refuses to know how workers are started.
"""

import math
from dataclasses import dataclass, field


class InvalidBounds(ValueError):
    """The setting SCALING cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    least: int
    most: int


def parse_bounds(text: str | None) -> dict[str, Bounds]:
    """Read `default=1..4,other=0..2`."""
    bounds: dict[str, Bounds] = {}
    for entry in filter(None, map(str.strip, (text or "").split(","))):
        pool, separator, span = entry.partition("=")
        least, dots, most = span.partition("..")
        if not (pool.strip() and separator and dots and least.strip().isdecimal() and most.strip().isdecimal()):
            raise InvalidBounds(f"{entry!r} is not POOL=LEAST..MOST")
        found = Bounds(least=int(least), most=int(most))
        if found.least > found.most or found.most < 1:
            raise InvalidBounds(f"{entry!r}: need LEAST <= MOST and MOST >= 1")
        bounds[pool.strip()] = found
    return bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRules:
    drain_seconds: float = 10.0
    """A backlog should be worked off in this time."""
    target_utilisation: float = 0.7
    up_step: int = 2
    """At most so many more at a time."""
    cooldown_seconds: float = 15.0
    """After a change nothing is taken away for so long; nor added, unless a worker was lost."""
    down_after_seconds: float = 60.0
    idle_seconds: float = 300.0
    """To zero, where zero is allowed."""
    burn_threshold: float = 14.4


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """What is known of a pool now. `workers` counts those that are starting; `capacity`: tokens/s of one worker, 0 when
    unknown; `utilisation`: share of the batches' places that are taken; `cold_start_seconds` 0 when unknown."""

    workers: int
    backlog_tokens: float = 0.0
    capacity: float = 0.0
    utilisation: float = 0.0
    burn: float = 0.0
    cold_start_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingState:
    """What a decision needs of the ones before it."""

    desired: int = 0
    changed_at: float = float("-inf")
    lower_since: float | None = None
    busy_at: float = field(default=float("-inf"))
    reason: str = "start"


def next_state(
    state: ScalingState | None, load: PoolLoad, *, bounds: Bounds, rules: ScalingRules, now: float
) -> ScalingState:
    if state is None:
        return ScalingState(desired=_within(load.workers, bounds), changed_at=now, busy_at=now)
    is_busy = load.backlog_tokens > 0 or load.utilisation > 0
    busy_at = now if is_busy else state.busy_at
    wanted, reason = _wanted(state, load, bounds, rules, now - busy_at)
    lower_since = None
    if wanted < state.desired:
        lower_since = now if state.lower_since is None else state.lower_since
    kept = ScalingState(
        desired=state.desired,
        changed_at=state.changed_at,
        lower_since=lower_since,
        busy_at=busy_at,
        reason=state.reason,
    )
    is_cooling = now - state.changed_at < rules.cooldown_seconds
    if wanted > state.desired and (not is_cooling or state.desired == 0):
        desired = min(wanted, state.desired + rules.up_step)
    elif lower_since is not None and not is_cooling and now - lower_since >= rules.down_after_seconds:
        desired = state.desired - 1
    else:
        return kept
    return ScalingState(desired=desired, changed_at=now, busy_at=busy_at, reason=reason)


def _wanted(
    state: ScalingState, load: PoolLoad, bounds: Bounds, rules: ScalingRules, idle_for: float
) -> tuple[int, str]:
    if bounds.least == 0 and idle_for >= rules.idle_seconds:
        return 0, f"idle for {idle_for:.0f} s"
    wishes = [(max(1, bounds.least), "the least that is allowed")]
    current = max(1, load.workers)
    if load.capacity > 0:
        left_seconds = load.backlog_tokens / (load.capacity * current)
        if left_seconds > max(rules.drain_seconds, load.cold_start_seconds):
            number = math.ceil(min(load.backlog_tokens / rules.drain_seconds / load.capacity, bounds.most))
            wishes.append((number, f"a backlog of {left_seconds:.0f} s"))
    if load.utilisation > 0:
        number = math.ceil(current * load.utilisation / rules.target_utilisation - 1e-9)
        wishes.append((number, f"utilisation {load.utilisation:.0%}"))
    if load.burn >= rules.burn_threshold:
        wishes.append((state.desired + 1, f"the error budget burns {load.burn:.0f} times too fast"))
    wanted, reason = max(wishes, key=lambda wish: wish[0])
    return _within(wanted, bounds), reason


def _within(number: int, bounds: Bounds) -> int:
    return min(max(number, bounds.least), bounds.most)
