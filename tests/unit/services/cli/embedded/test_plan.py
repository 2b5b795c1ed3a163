"""From a plan to the environment of each service."""

from pathlib import Path

import pytest

from services.cli.embedded.plan import Addresses, PoolPlan, StackPlan, shared_environment, worker_environment

ADDRESSES = Addresses(kafka="127.0.0.1:1", redis="redis://127.0.0.1:2/0", otlp_endpoint="http://127.0.0.1:3")


def test_every_service_learns_where_kafka_redis_and_the_span_store_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    environment = shared_environment(StackPlan(data_dir=Path("d")), ADDRESSES)
    assert environment["PENSTOCK_KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:1"
    assert environment["PENSTOCK_REDIS_URL"] == "redis://127.0.0.1:2/0"
    assert environment["PENSTOCK_TELEMETRY_OTLP_ENDPOINT"] == "http://127.0.0.1:3"


def test_the_users_own_collector_wins_over_the_span_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert "PENSTOCK_TELEMETRY_OTLP_ENDPOINT" not in shared_environment(StackPlan(data_dir=Path("d")), ADDRESSES)


def test_the_plans_environment_wins_over_the_defaults() -> None:
    plan = StackPlan(data_dir=Path("d"), environment={"PENSTOCK_KAFKA_REQUEST_PARTITIONS": "3"})
    assert shared_environment(plan, ADDRESSES)["PENSTOCK_KAFKA_REQUEST_PARTITIONS"] == "3"


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, 2, "4"), (2, 2, "1"), (2, 3, "1"), (6, 0, "6")])
def test_cores_are_shared_out_among_the_workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: str
) -> None:
    monkeypatch.setattr("services.cli.embedded.plan.usable_cores", lambda: cores)
    environment = worker_environment(PoolPlan(), index=0, total_workers=workers)
    assert environment["PENSTOCK_WORKER_NUM_THREADS"] == threads


def test_a_pool_without_a_model_runs_the_null_engine() -> None:
    environment = worker_environment(PoolPlan(name="p"), index=3, total_workers=1)
    assert environment["PENSTOCK_WORKER_ENGINE"] == "null"
    assert environment["PENSTOCK_WORKER_NAME"] == "p-3"
    assert "PENSTOCK_WORKER_MODEL" not in environment


def test_a_models_path_is_made_absolute_because_services_may_run_elsewhere() -> None:
    environment = worker_environment(
        PoolPlan(model=Path("relative"), served_model_name="m", dtype="float32", quantization="rtn-int8"),
        index=0,
        total_workers=1,
    )
    assert environment["PENSTOCK_WORKER_MODEL"] == str(Path.cwd() / "relative")
    assert environment["PENSTOCK_WORKER_SERVED_MODEL_NAME"] == "m"
    assert environment["PENSTOCK_WORKER_DTYPE"] == "float32"
    assert environment["PENSTOCK_WORKER_QUANTIZATION"] == "rtn-int8"
    assert environment["PENSTOCK_WORKER_ENGINE"] == "real"


def test_workers_of_all_pools_count() -> None:
    assert StackPlan(data_dir=Path("d"), pools=(PoolPlan(workers=2), PoolPlan(name="b", workers=3))).total_workers == 5
