"""A real Prometheus as a child process of a test, and the questions put to it."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from services.cli.embedded.ports import free_port

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a range query brought: (instant, value) pairs of all its series together, without NaN."""

    samples: tuple[tuple[float, float], ...]

    def between(self, start: float, end: float) -> list[float]:
        return [value for instant, value in self.samples if start <= instant <= end]

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.samples]

    @property
    def changes(self) -> bool:
        return len(set(self.values)) > 1


class PrometheusServer:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.get("/api/v1/targets").json()["data"]["activeTargets"]
        return found

    def ask(self, expression: str, *, start: float, end: float) -> Answer:
        answer = self._client.get(
            "/api/v1/query_range", params={"query": expression, "start": start, "end": end, "step": 1}
        ).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return Answer(
            tuple(
                (instant, float(value))
                for series in answer["data"]["result"]
                for instant, value in series["values"]
                if not math.isnan(float(value))
            )
        )

    def trace_ids(self, expression: str, *, start: float, end: float) -> set[str]:
        """Of the exemplars of a histogram."""
        answer = self._client.get(
            "/api/v1/query_exemplars", params={"query": expression, "start": start, "end": end}
        ).json()
        return {exemplar["labels"]["trace_id"] for series in answer["data"] for exemplar in series["exemplars"]}


@contextmanager
def prometheus(directory: Path, targets: Path) -> Iterator[PrometheusServer]:
    """Scrapes every second what the file `targets` names, with the project's rules and alerts loaded."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on the PATH: apt-get install prometheus")
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "penstock", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
        ],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    arguments = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
    try:
        server = PrometheusServer(f"http://127.0.0.1:{port}")
        give_up_at = time.monotonic() + _START_SECONDS
        while not server.is_ready():
            assert process.poll() is None, (directory / "prometheus.log").read_text()[-2_000:]
            assert time.monotonic() < give_up_at, "Prometheus is not ready"
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)
