"""Values for the supervisor's tests, with defaults for what a test does not care about."""

from typing import Any

from shared.contracts.fleet import Heartbeat, WorkerState
from shared.contracts.identifiers import Incarnation, RequestId, WorkerId
from shared.contracts.requests import Coordinates, Lane
from shared.ledger.records import OwnedRequest, RequestState

POOL = "default"


def heartbeat(
    worker: str = "w-0",
    number: int = 1,
    *,
    life: str = "a",
    state: WorkerState = WorkerState.READY,
    sent_at_ms: int | None = None,
    **changes: Any,
) -> Heartbeat:
    values: dict[str, Any] = {
        "worker_id": WorkerId(worker),
        "incarnation": Incarnation(f"{worker}.{life}"),
        "sequence_number": number,
        "sent_at_ms": number * 500 if sent_at_ms is None else sent_at_ms,
        "state": state,
        "pool": POOL,
        "models": ("m",),
        "fingerprint": "f",
        "max_model_tokens": 2_048,
        "partitions": (("requests", 0),),
        "running_requests": 1,
        "waiting_requests": 0,
        "max_running_requests": 8,
        "kv_blocks_total": 100,
        "kv_blocks_free": 90,
        "kv_block_tokens": 16,
        "output_tokens_per_second": 10.0,
        "outstanding_tokens": 50,
        "last_poll_age_ms": 1,
        "oldest_unfinished_age_ms": 1,
        "device": "cpu",
        "dtype": "float32",
        "version": "1",
    }
    return Heartbeat(**(values | changes))


def owned_request(request_id: str, *, offset: int, token: str = "token", attempt: int = 1) -> OwnedRequest:
    return OwnedRequest(
        request_id=RequestId(request_id),
        token=token,  # type: ignore[arg-type]
        coordinates=Coordinates(topic="source", partition=0, offset=offset, timestamp_ms=1_000),
        pool=POOL,
        lane=Lane.INTERACTIVE,
        tenant="",
        deadline_ms=None,
        attempt=attempt,
        state=RequestState.RUNNING,
        trace_headers=(),
    )
