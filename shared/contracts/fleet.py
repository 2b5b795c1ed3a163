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
class Heartbeat:
    """One worker's state, every 500 ms. `partitions` are (topic, partition) pairs of the interactive lane."""

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


class FleetEventKind(StrEnum):
    WORKER_JOINED = "worker-joined"
    WORKER_READY = "worker-ready"
    WORKER_LOST = "worker-lost"
    WORKER_LEFT = "worker-left"
    ENGINE_DOWN = "engine-down"
    REQUESTS_REASSIGNED = "requests-reassigned"
    SUPERVISOR_ELECTED = "supervisor-elected"


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
