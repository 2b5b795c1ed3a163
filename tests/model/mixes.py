"""Which faults are tried together, and under which of them each line of the protocol shows what it is for."""

from dataclasses import dataclass

from tests.model.world import Fault


@dataclass(frozen=True, slots=True)
class Mix:
    """At most so many of each fault, in any order, between any two steps."""

    faults: tuple[tuple[Fault, int], ...]
    by_gateway: bool = False

    def __str__(self) -> str:
        asked = "HTTP" if self.by_gateway else "Kafka"
        return f"{asked}: {', '.join(f'{count} x {fault.value}' for fault, count in self.faults) or 'no fault'}"


def mix(*faults: Fault, by_gateway: bool = False) -> Mix:
    return Mix(tuple((fault, faults.count(fault)) for fault in sorted(set(faults))), by_gateway)


F = Fault
REMOVED: dict[int, tuple[Mix, str]] = {
    1: (mix(F.CRASH), "it can never be answered"),
    2: (mix(F.CRASH), "two terminals that are not the same"),
    3: (mix(F.REDIS, F.PAUSE), "a worker wrote whose claim was somebody else's by then"),
    4: (mix(F.PAUSE, F.DEADLINE), "two terminals that are not the same"),
    5: (mix(F.UNHEARD), "the log has a gap, a repeat or a contradiction"),
    6: (mix(F.CRASH), "two terminals that are not the same"),
    7: (mix(F.CRASH), "it can never be answered"),
    8: (mix(F.REBALANCE, F.CRASH, F.SUPERVISOR), "it can never be answered"),
    9: (mix(F.DRAIN, F.DRAIN), "poisoned, and no claim was lost"),
    10: (mix(F.PAUSE), "the claim of a living worker was taken"),
    11: (mix(F.CANCEL), "it ran although it had been cancelled before it was claimed"),
    12: (mix(F.CRASH), "the log has a gap, a repeat or a contradiction"),
    13: (mix(F.CRASH), "two terminals that are not the same"),
    14: (mix(F.REDIS, F.CRASH), "two terminals that are not the same"),
    15: (mix(F.REDIS, F.PAUSE), "a late reader finds another first terminal"),
    16: (mix(F.GATEWAY, by_gateway=True), "it can never be answered"),
}
"""By line: the faults under which a protocol without it breaks, and the promise that breaks."""

QUICK = (
    mix(),
    mix(by_gateway=True),
    mix(F.CRASH),
    mix(F.PAUSE),
    mix(F.ENGINE, F.UNHEARD),
    mix(F.DRAIN, F.DRAIN),
    mix(F.CANCEL, F.DEADLINE),
    mix(F.CANCEL, F.ENGINE),
    mix(F.REBALANCE, F.SUPERVISOR),
    mix(F.REDIS),
    mix(F.UNHEARD),
    mix(F.CANCEL),
    mix(F.GATEWAY, by_gateway=True),
    mix(F.GATEWAY, F.CANCEL, by_gateway=True),
)
"""All that fits into seconds."""

DEEP = (
    mix(F.CRASH, F.CRASH),
    mix(F.CRASH, F.PAUSE),
    mix(F.CRASH, F.ENGINE, F.SUPERVISOR),
    mix(F.CRASH, F.DRAIN),
    mix(F.CRASH, F.CANCEL),
    mix(F.CRASH, F.DEADLINE),
    mix(F.CRASH, F.REBALANCE, F.SUPERVISOR),
    mix(F.CRASH, F.UNHEARD),
    mix(F.PAUSE, F.DEADLINE),
    mix(F.PAUSE, F.CANCEL),
    mix(F.PAUSE, F.REBALANCE),
    mix(F.REDIS, F.CRASH),
    mix(F.REDIS, F.PAUSE),
    mix(F.REDIS, F.CANCEL),
    mix(F.REDIS, F.DEADLINE),
    mix(F.REDIS, F.DRAIN),
    mix(F.REDIS, F.UNHEARD),
    mix(F.CRASH, F.GATEWAY, by_gateway=True),
    mix(F.PAUSE, F.GATEWAY, by_gateway=True),
    mix(F.CRASH, F.CRASH, F.SUPERVISOR),
    mix(F.CRASH, F.DRAIN, F.CANCEL),
    mix(F.CRASH, F.ENGINE, F.DEADLINE),
    mix(F.REDIS, F.REDIS, F.CRASH),
    mix(F.REDIS, F.DRAIN, F.CRASH),
    mix(F.REDIS, F.PAUSE, F.CANCEL),
)
"""Two and three faults; a minute or two."""
