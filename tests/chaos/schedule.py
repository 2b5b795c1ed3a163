"""When which fault strikes: a pure function of a seed. Every kind comes once before any comes twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    KILL_WORKER = "kill worker"
    KILL_ENGINE = "kill engine"
    KILL_GATEWAY = "kill gateway"
    KILL_SUPERVISOR = "kill supervisor"
    KILL_BOTH_SUPERVISORS = "kill both supervisors"
    HANG_ENGINE = "hang engine"
    FREEZE_WORKER = "freeze worker 5 s"
    ENGINE_OUT_OF_MEMORY = "engine out of memory"
    MACHINE_GONE = "machine gone"
    DRAIN_WORKER = "drain worker"
    JOIN_AND_LEAVE = "worker joins, leaves"
    FREEZE_KAFKA = "freeze Kafka 4 s"
    FREEZE_KAFKA_LONG = "freeze Kafka 20 s"
    RESTART_KAFKA = "kill, restart Kafka"
    FREEZE_REDIS = "freeze Redis 2 s"
    RESTART_REDIS = "kill, restart Redis"
    RESTART_BOTH = "kill, restart Kafka and Redis"
    EMPTY_REDIS = "kill Redis, restart empty"
    CLOCK_OFF = "clock of a service 1 h off"


EVERY_FAULT = tuple(Fault)
MODEL_FAULTS = (
    Fault.KILL_WORKER,
    Fault.KILL_ENGINE,
    Fault.KILL_GATEWAY,
    Fault.FREEZE_WORKER,
    Fault.ENGINE_OUT_OF_MEMORY,
    Fault.DRAIN_WORKER,
    Fault.RESTART_REDIS,
)
"""With a real engine, which takes seconds to load: what moves a stream from one engine to another."""
KAFKA_FAULTS = (Fault.FREEZE_KAFKA, Fault.FREEZE_KAFKA_LONG, Fault.RESTART_KAFKA, Fault.RESTART_BOTH)
REDIS_FAULTS = (Fault.FREEZE_REDIS, Fault.RESTART_REDIS, Fault.EMPTY_REDIS, Fault.RESTART_BOTH)
RARE_FAULTS = (Fault.FREEZE_KAFKA_LONG, Fault.RESTART_BOTH)
"""In every third round only: a Kafka that is away all the time lets no work in that could be lost."""
OVERLAP_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Strike:
    at_seconds: float
    fault: Fault


def schedule(
    seed: int,
    *,
    seconds: float,
    faults: Sequence[Fault] = EVERY_FAULT,
    pause_seconds: tuple[float, float] = (3.0, 7.0),
    overlap_share: float = OVERLAP_SHARE,
) -> list[Strike]:
    """About a third follow their forerunner within a second: these overlap."""
    rng = random.Random(seed)
    strikes: list[Strike] = []
    at, deck, num_rounds = 1.0, list[Fault](), 0
    common = [fault for fault in faults if fault not in RARE_FAULTS] or list(faults)
    while at < seconds:
        if not deck:
            round_of = list(faults) if num_rounds % 3 == 0 else common
            deck = rng.sample(round_of, len(round_of))
            num_rounds += 1
        strikes.append(Strike(round(at, 2), deck.pop()))
        is_overlap = rng.random() < overlap_share
        at += rng.uniform(0.05, 1.0) if is_overlap else rng.uniform(*pause_seconds)
    return strikes
