"""The worker's heartbeats: what the fleet knows of it. Reads the worker's parts, changes none of them."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.worker.engine.events import EngineReady, StepStatistics
from shared.contracts.fleet import Heartbeat, ServiceLevelCount, WorkerState
from shared.contracts.identifiers import Incarnation, WorkerId


class AssignedSource(Protocol):
    @property
    def assignment(self) -> list[tuple[str, int]]: ...
    @property
    def last_poll_age_seconds(self) -> float: ...
    @property
    def oldest_unfinished_age_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """What does not change in a worker's life."""

    worker_id: WorkerId
    incarnation: Incarnation
    pool: str
    models: tuple[str, ...]
    announced_topics: frozenset[str]
    """Whose partitions others choose among: gateways of the interactive lane, the supervisor of resumed work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What changes all the time."""

    state: WorkerState
    ready: EngineReady | None
    statistics: StepStatistics | None
    num_running: int
    num_waiting: int
    open_tokens: int
    tokens_per_second: float
    drained_tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    lag_records: int = 0
    bulk_lag_records: int = 0
    is_intake_paused: bool = False
    is_quarantined: bool = False
    service_levels: tuple[ServiceLevelCount, ...] = ()


class HeartbeatWriter:
    """Numbers the heartbeats of one incarnation."""

    def __init__(
        self,
        identity: WorkerIdentity,
        source: AssignedSource,
        load: Callable[[], WorkerLoad],
        now_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._source = source
        self._load = load
        self._now_ms = now_ms
        self._sequence_number = 0

    def next(self) -> Heartbeat:
        identity, source, load = self._identity, self._source, self._load()
        self._sequence_number += 1
        ready, statistics = load.ready, load.statistics
        blocks_total = 0 if ready is None else ready.num_kv_blocks
        blocks_used = 0 if statistics is None else statistics.blocks_used
        return Heartbeat(
            worker_id=identity.worker_id,
            incarnation=identity.incarnation,
            sequence_number=self._sequence_number,
            sent_at_ms=self._now_ms(),
            state=load.state,
            pool=identity.pool,
            models=identity.models,
            fingerprint="" if ready is None else ready.fingerprint,
            max_model_tokens=0 if ready is None else ready.max_model_tokens,
            partitions=tuple(pair for pair in sorted(source.assignment) if pair[0] in identity.announced_topics),
            running_requests=load.num_running,
            waiting_requests=load.num_waiting,
            max_running_requests=0 if ready is None else ready.max_running_sequences,
            kv_blocks_total=blocks_total,
            kv_blocks_free=blocks_total - blocks_used,
            kv_block_tokens=0 if ready is None else ready.block_size_tokens,
            output_tokens_per_second=load.tokens_per_second,
            outstanding_tokens=load.open_tokens if statistics is None else statistics.outstanding_tokens,
            last_poll_age_ms=round(source.last_poll_age_seconds * 1_000),
            oldest_unfinished_age_ms=round(source.oldest_unfinished_age_seconds * 1_000),
            device="" if ready is None else ready.device,
            dtype="" if ready is None else ready.dtype,
            version=version(),
            queued_requests=load.num_waiting + (0 if statistics is None else statistics.num_waiting),
            drained_tokens_per_second=load.drained_tokens_per_second,
            lag_records=load.lag_records,
            bulk_lag_records=load.bulk_lag_records,
            step_seconds=load.step_seconds,
            is_intake_paused=load.is_intake_paused,
            is_quarantined=load.is_quarantined,
            service_levels=load.service_levels,
            weights="" if ready is None else ready.weights,
            kv_cache="" if ready is None else ready.kv_cache,
            speculation="" if ready is None else ready.speculation,
            speculation_methods=() if ready is None else tuple(ready.speculation_methods),
        )


def version() -> str:
    try:
        return importlib.metadata.version("penstock-inference")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
