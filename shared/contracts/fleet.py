"""What workers and the supervisor tell each other and everybody else about the fleet. Values only."""

from dataclasses import dataclass
from enum import StrEnum

from shared.contracts.identifiers import Incarnation, WorkerId


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENGINE_DOWN = "engine-down"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLevelCount:
    """What one tenant got of one worker in one lane, counted since the incarnation began.

    `failed`, `late_first_tokens` and `slow_streams` missed their objective (`PENSTOCK_SLO_*`); `streams` are answers
    of at least two tokens.
    """

    lane: str
    tenant: str
    requests: int = 0
    failed: int = 0
    first_tokens: int = 0
    late_first_tokens: int = 0
    streams: int = 0
    slow_streams: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One worker's state, every 500 ms. `partitions` are (topic, partition) pairs of the interactive lane.

    `outstanding_tokens` are output tokens that may still be asked of the engine, `drained_tokens_per_second` how fast
    they become fewer (computed, or not needed after all). `queued_requests` are taken from Kafka and not in the
    engine's batch yet, `lag_records` and `bulk_lag_records` not even taken. `step_seconds` is the median of late.
    """

    worker_id: WorkerId
    incarnation: Incarnation
    sequence_number: int
    sent_at_ms: int
    state: WorkerState
    pool: str
    models: tuple[str, ...]
    fingerprint: str
    max_model_tokens: int
    partitions: tuple[tuple[str, int], ...]
    running_requests: int
    waiting_requests: int
    max_running_requests: int
    kv_blocks_total: int
    kv_blocks_free: int
    kv_block_tokens: int
    output_tokens_per_second: float
    outstanding_tokens: int
    last_poll_age_ms: int
    oldest_unfinished_age_ms: int
    device: str
    dtype: str
    version: str
    queued_requests: int = 0
    drained_tokens_per_second: float = 0.0
    lag_records: int = 0
    bulk_lag_records: int = 0
    step_seconds: float = 0.0
    is_intake_paused: bool = False
    is_quarantined: bool = False
    service_levels: tuple[ServiceLevelCount, ...] = ()
    weights: str = ""
    kv_cache: str = ""
    speculation: str = ""
    speculation_methods: tuple[str, ...] = ()


class FleetEventKind(StrEnum):
    WORKER_JOINED = "worker-joined"
    WORKER_READY = "worker-ready"
    WORKER_LOST = "worker-lost"
    WORKER_LEFT = "worker-left"
    ENGINE_DOWN = "engine-down"
    REQUESTS_REASSIGNED = "requests-reassigned"
    SUPERVISOR_ELECTED = "supervisor-elected"
    BREAKER_CHANGED = "breaker-changed"
    WORKER_QUARANTINED = "worker-quarantined"
    WORKER_RELEASED = "worker-released"
    SCALING_DECIDED = "scaling-decided"
    BUDGET_BURNING = "budget-burning"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    kind: FleetEventKind
    worker_id: WorkerId
    incarnation: Incarnation | None
    occurred_at_ms: int
    detail: str


class FleetCommandKind(StrEnum):
    DRAIN = "drain"
    RESUME = "resume"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCommand:
    kind: FleetCommandKind
    worker_id: WorkerId
    issued_at_ms: int
    reason: str
