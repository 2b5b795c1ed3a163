from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_ENGINE_DOWN: _ClassVar[WorkerState]
    WORKER_STATE_STOPPED: _ClassVar[WorkerState]

class FleetEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLEET_EVENT_KIND_UNSPECIFIED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_JOINED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_READY: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_LOST: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_LEFT: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_ENGINE_DOWN: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_REQUESTS_REASSIGNED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_SUPERVISOR_ELECTED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_BREAKER_CHANGED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_QUARANTINED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_WORKER_RELEASED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_SCALING_DECIDED: _ClassVar[FleetEventKind]
    FLEET_EVENT_KIND_BUDGET_BURNING: _ClassVar[FleetEventKind]

class FleetCommandKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FLEET_COMMAND_KIND_UNSPECIFIED: _ClassVar[FleetCommandKind]
    FLEET_COMMAND_KIND_DRAIN: _ClassVar[FleetCommandKind]
    FLEET_COMMAND_KIND_RESUME: _ClassVar[FleetCommandKind]
    FLEET_COMMAND_KIND_QUARANTINE: _ClassVar[FleetCommandKind]
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_ENGINE_DOWN: WorkerState
WORKER_STATE_STOPPED: WorkerState
FLEET_EVENT_KIND_UNSPECIFIED: FleetEventKind
FLEET_EVENT_KIND_WORKER_JOINED: FleetEventKind
FLEET_EVENT_KIND_WORKER_READY: FleetEventKind
FLEET_EVENT_KIND_WORKER_LOST: FleetEventKind
FLEET_EVENT_KIND_WORKER_LEFT: FleetEventKind
FLEET_EVENT_KIND_ENGINE_DOWN: FleetEventKind
FLEET_EVENT_KIND_REQUESTS_REASSIGNED: FleetEventKind
FLEET_EVENT_KIND_SUPERVISOR_ELECTED: FleetEventKind
FLEET_EVENT_KIND_BREAKER_CHANGED: FleetEventKind
FLEET_EVENT_KIND_WORKER_QUARANTINED: FleetEventKind
FLEET_EVENT_KIND_WORKER_RELEASED: FleetEventKind
FLEET_EVENT_KIND_SCALING_DECIDED: FleetEventKind
FLEET_EVENT_KIND_BUDGET_BURNING: FleetEventKind
FLEET_COMMAND_KIND_UNSPECIFIED: FleetCommandKind
FLEET_COMMAND_KIND_DRAIN: FleetCommandKind
FLEET_COMMAND_KIND_RESUME: FleetCommandKind
FLEET_COMMAND_KIND_QUARANTINE: FleetCommandKind

class PartitionHeld(_message.Message):
    __slots__ = ("topic", "partition")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ...) -> None: ...

class ServiceLevelCount(_message.Message):
    __slots__ = ("lane", "tenant", "requests", "failed", "first_tokens", "late_first_tokens", "streams", "slow_streams")
    LANE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    SLOW_STREAMS_FIELD_NUMBER: _ClassVar[int]
    lane: str
    tenant: str
    requests: int
    failed: int
    first_tokens: int
    late_first_tokens: int
    streams: int
    slow_streams: int
    def __init__(self, lane: _Optional[str] = ..., tenant: _Optional[str] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., first_tokens: _Optional[int] = ..., late_first_tokens: _Optional[int] = ..., streams: _Optional[int] = ..., slow_streams: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("worker_id", "incarnation", "sequence_number", "sent_at_ms", "state", "pool", "models", "fingerprint", "max_model_tokens", "partitions", "running_requests", "waiting_requests", "max_running_requests", "kv_blocks_total", "kv_blocks_free", "kv_block_tokens", "output_tokens_per_second", "outstanding_tokens", "last_poll_age_ms", "oldest_unfinished_age_ms", "device", "dtype", "version", "queued_requests", "drained_tokens_per_second", "lag_records", "bulk_lag_records", "step_seconds", "is_intake_paused", "is_quarantined", "service_levels", "weights", "kv_cache", "speculation", "speculation_methods")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_FREE_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LAST_POLL_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNFINISHED_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DRAINED_TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    BULK_LAG_RECORDS_FIELD_NUMBER: _ClassVar[int]
    STEP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_INTAKE_PAUSED_FIELD_NUMBER: _ClassVar[int]
    IS_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    SERVICE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_METHODS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    sequence_number: int
    sent_at_ms: int
    state: WorkerState
    pool: str
    models: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    max_model_tokens: int
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionHeld]
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
    queued_requests: int
    drained_tokens_per_second: float
    lag_records: int
    bulk_lag_records: int
    step_seconds: float
    is_intake_paused: bool
    is_quarantined: bool
    service_levels: _containers.RepeatedCompositeFieldContainer[ServiceLevelCount]
    weights: str
    kv_cache: str
    speculation: str
    speculation_methods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., sequence_number: _Optional[int] = ..., sent_at_ms: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ..., pool: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ..., max_model_tokens: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[PartitionHeld, _Mapping]]] = ..., running_requests: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., max_running_requests: _Optional[int] = ..., kv_blocks_total: _Optional[int] = ..., kv_blocks_free: _Optional[int] = ..., kv_block_tokens: _Optional[int] = ..., output_tokens_per_second: _Optional[float] = ..., outstanding_tokens: _Optional[int] = ..., last_poll_age_ms: _Optional[int] = ..., oldest_unfinished_age_ms: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., version: _Optional[str] = ..., queued_requests: _Optional[int] = ..., drained_tokens_per_second: _Optional[float] = ..., lag_records: _Optional[int] = ..., bulk_lag_records: _Optional[int] = ..., step_seconds: _Optional[float] = ..., is_intake_paused: _Optional[bool] = ..., is_quarantined: _Optional[bool] = ..., service_levels: _Optional[_Iterable[_Union[ServiceLevelCount, _Mapping]]] = ..., weights: _Optional[str] = ..., kv_cache: _Optional[str] = ..., speculation: _Optional[str] = ..., speculation_methods: _Optional[_Iterable[str]] = ...) -> None: ...

class FleetEvent(_message.Message):
    __slots__ = ("kind", "worker_id", "incarnation", "occurred_at_ms", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: FleetEventKind
    worker_id: str
    incarnation: str
    occurred_at_ms: int
    detail: str
    def __init__(self, kind: _Optional[_Union[FleetEventKind, str]] = ..., worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., occurred_at_ms: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class FleetCommand(_message.Message):
    __slots__ = ("kind", "worker_id", "issued_at_ms", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: FleetCommandKind
    worker_id: str
    issued_at_ms: int
    reason: str
    def __init__(self, kind: _Optional[_Union[FleetCommandKind, str]] = ..., worker_id: _Optional[str] = ..., issued_at_ms: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
