"""What an embedded stack consists of: plain values, and the environment each service gets from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from shared.resilience.cores import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """The workers of one pool. `model` None runs the null engine, which needs none."""

    name: str = "default"
    workers: int = 1
    model: Path | None = None
    served_model_name: str | None = None
    dtype: str = "auto"
    quantization: str = "none"
    kv_cache: str = "16bit"
    speculation: str = "none"
    draft_model: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    worker_environments: tuple[dict[str, str], ...] = ()
    """On top, for the first worker, the second, and so on: unequal workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """A whole stack. `kafka` and `redis` name servers that already run; the ports are those of our own.

    Ports are wishes: 0 takes a free one, a taken one the next. `environment` goes to every service.
    """

    data_dir: Path
    pools: tuple[PoolPlan, ...] = (PoolPlan(),)
    http_port: int = 0
    supervisor_port: int = 0
    kafka_port: int = 0
    redis_port: int = 0
    kafka: str | None = None
    redis: str | None = None
    gateways: int = 1
    supervisors: int = 1
    request_partitions: int = 24
    worker_module: str = "services.worker"
    """What workers are started as; tests wire in one with a planted bug."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def total_workers(self) -> int:
        return sum(pool.workers for pool in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the parts that every service needs are."""

    kafka: str
    redis: str
    otlp_endpoint: str


def shared_environment(plan: StackPlan, addresses: Addresses) -> dict[str, str]:
    """What every service is told. A setting of the user's own environment wins over our defaults."""
    chosen = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": addresses.kafka,
        "PENSTOCK_REDIS_URL": addresses.redis,
        "PENSTOCK_KAFKA_REQUEST_PARTITIONS": str(plan.request_partitions),
    }
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        chosen["PENSTOCK_TELEMETRY_OTLP_ENDPOINT"] = addresses.otlp_endpoint
    return {**chosen, **plan.environment}


def worker_environment(pool: PoolPlan, *, index: int, total_workers: int, health_port: int = 0) -> dict[str, str]:
    """One worker's settings. Cores are shared out: two engines with two threads each would fight for them."""
    threads = max(1, usable_cores() // max(1, total_workers))
    environment = {
        "PENSTOCK_WORKER_NAME": f"{pool.name}-{index}",
        "PENSTOCK_WORKER_POOL": pool.name,
        "PENSTOCK_WORKER_ENGINE": "null" if pool.model is None else "real",
        "PENSTOCK_WORKER_DTYPE": pool.dtype,
        "PENSTOCK_WORKER_QUANTIZATION": pool.quantization,
        "PENSTOCK_WORKER_KV_CACHE": pool.kv_cache,
        "PENSTOCK_WORKER_SPECULATION": pool.speculation,
        "PENSTOCK_WORKER_NUM_THREADS": str(threads),
        "PENSTOCK_WORKER_HEALTH_PORT": str(health_port),
    }
    if pool.model is not None:
        environment["PENSTOCK_WORKER_MODEL"] = str(pool.model.resolve())
    if pool.draft_model is not None:
        environment["PENSTOCK_WORKER_DRAFT_MODEL"] = str(pool.draft_model.resolve())
    if pool.served_model_name is not None:
        environment["PENSTOCK_WORKER_SERVED_MODEL_NAME"] = pool.served_model_name
    own = pool.worker_environments[index] if index < len(pool.worker_environments) else {}
    return {**environment, **pool.environment, **own}
