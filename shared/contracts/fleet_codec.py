"""What the fleet tells itself (heartbeats, events, commands) as protobuf bytes and back. Knows the wire only."""

from shared.contracts.fleet import (
    FleetCommand,
    FleetCommandKind,
    FleetEvent,
    FleetEventKind,
    Heartbeat,
    ServiceLevelCount,
    WorkerState,
)
from shared.contracts.generated.fleet.v1 import fleet_pb2
from shared.contracts.identifiers import Incarnation, WorkerId
from shared.contracts.protobuf_wire import EnumTable, encoded, parsed

_WORKER_STATES = EnumTable(WorkerState, fleet_pb2.WorkerState, "WORKER_STATE")
_EVENT_KINDS = EnumTable(FleetEventKind, fleet_pb2.FleetEventKind, "FLEET_EVENT_KIND")
_COMMAND_KINDS = EnumTable(FleetCommandKind, fleet_pb2.FleetCommandKind, "FLEET_COMMAND_KIND")

_HEARTBEAT_SCALARS = (
    "worker_id", "incarnation", "sequence_number", "sent_at_ms", "pool", "models", "fingerprint",
    "max_model_tokens", "running_requests", "waiting_requests", "max_running_requests", "kv_blocks_total",
    "kv_blocks_free", "kv_block_tokens", "output_tokens_per_second", "outstanding_tokens", "last_poll_age_ms",
    "oldest_unfinished_age_ms", "device", "dtype", "version", "queued_requests", "drained_tokens_per_second",
    "lag_records", "bulk_lag_records", "step_seconds", "is_intake_paused", "is_quarantined",
    "weights", "kv_cache", "speculation", "speculation_methods",
)  # fmt: skip
_SERVICE_LEVEL_FIELDS = (
    "lane", "tenant", "requests", "failed", "first_tokens", "late_first_tokens", "streams", "slow_streams",
)  # fmt: skip


def encode_heartbeat(heartbeat: Heartbeat) -> bytes:
    return encoded(
        fleet_pb2.Heartbeat(
            state=_WORKER_STATES.number(heartbeat.state),
            partitions=[
                fleet_pb2.PartitionHeld(topic=topic, partition=partition) for topic, partition in heartbeat.partitions
            ],
            service_levels=[
                fleet_pb2.ServiceLevelCount(**{field: getattr(count, field) for field in _SERVICE_LEVEL_FIELDS})
                for count in heartbeat.service_levels
            ],
            **{field: getattr(heartbeat, field) for field in _HEARTBEAT_SCALARS},
        )
    )


def decode_heartbeat(value: bytes | None) -> Heartbeat:
    message = parsed(fleet_pb2.Heartbeat(), value)
    scalars = {field: getattr(message, field) for field in _HEARTBEAT_SCALARS}
    return Heartbeat(
        state=_WORKER_STATES.member(message.state),
        partitions=tuple((held.topic, held.partition) for held in message.partitions),
        service_levels=tuple(
            ServiceLevelCount(**{field: getattr(count, field) for field in _SERVICE_LEVEL_FIELDS})
            for count in message.service_levels
        ),
        **(scalars | {field: tuple(scalars[field]) for field in ("models", "speculation_methods")}),
    )


def encode_fleet_event(event: FleetEvent) -> bytes:
    return encoded(
        fleet_pb2.FleetEvent(
            kind=_EVENT_KINDS.number(event.kind),
            worker_id=event.worker_id,
            incarnation=event.incarnation,
            occurred_at_ms=event.occurred_at_ms,
            detail=event.detail,
        )
    )


def decode_fleet_event(value: bytes | None) -> FleetEvent:
    message = parsed(fleet_pb2.FleetEvent(), value)
    return FleetEvent(
        kind=_EVENT_KINDS.member(message.kind),
        worker_id=WorkerId(message.worker_id),
        incarnation=Incarnation(message.incarnation) if message.HasField("incarnation") else None,
        occurred_at_ms=message.occurred_at_ms,
        detail=message.detail,
    )


def encode_fleet_command(command: FleetCommand) -> bytes:
    return encoded(
        fleet_pb2.FleetCommand(
            kind=_COMMAND_KINDS.number(command.kind),
            worker_id=command.worker_id,
            issued_at_ms=command.issued_at_ms,
            reason=command.reason,
        )
    )


def decode_fleet_command(value: bytes | None) -> FleetCommand:
    message = parsed(fleet_pb2.FleetCommand(), value)
    return FleetCommand(
        kind=_COMMAND_KINDS.member(message.kind),
        worker_id=WorkerId(message.worker_id),
        issued_at_ms=message.issued_at_ms,
        reason=message.reason,
    )
