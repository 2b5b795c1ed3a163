"""The file a Prometheus follows to find the processes of an embedded stack."""

import json
from pathlib import Path

from services.cli.embedded.prometheus_targets import PrometheusTargets


def addresses(targets: PrometheusTargets) -> dict[str, list[str]]:
    return {entry["labels"]["process"]: entry["targets"] for entry in json.loads(targets.file.read_text())}


def test_every_process_is_there_under_its_job(tmp_path: Path) -> None:
    targets = PrometheusTargets(tmp_path)
    targets.add("gateway-0", job="gateway", port=8000)
    targets.add("worker-default-0", job="worker", port=8002)
    assert json.loads(targets.file.read_text()) == [
        {"targets": ["127.0.0.1:8000"], "labels": {"job": "gateway", "process": "gateway-0"}},
        {"targets": ["127.0.0.1:8002"], "labels": {"job": "worker", "process": "worker-default-0"}},
    ]


def test_a_process_started_anew_on_another_port_is_there_once(tmp_path: Path) -> None:
    targets = PrometheusTargets(tmp_path)
    targets.add("worker-default-0", job="worker", port=8002)
    targets.add("worker-default-0", job="worker", port=8007)
    assert addresses(targets) == {"worker-default-0": ["127.0.0.1:8007"]}


def test_a_process_that_left_is_not_scraped_any_more(tmp_path: Path) -> None:
    targets = PrometheusTargets(tmp_path)
    targets.add("worker-default-0", job="worker", port=8002)
    targets.add("worker-default-1", job="worker", port=8003)
    targets.remove("worker-default-0")
    targets.remove("never there")
    assert addresses(targets) == {"worker-default-1": ["127.0.0.1:8003"]}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    targets = PrometheusTargets(tmp_path)
    targets.add("worker-default-0", job="worker", port=8002)
    assert [path.name for path in tmp_path.iterdir()] == [targets.file.name]
