"""A real Jaeger, alone or behind a collector with the project's own configuration, and the questions put to it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import yaml

from services.cli.embedded.ports import free_port
from tests.go_programs.build import program

COLLECTOR_FILE = Path(__file__).parents[2] / "deploy" / "otel-collector" / "collector.yaml"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOOKBACK = 3_600


@dataclass(frozen=True)
class Trace:
    """As Jaeger's query API gives it."""

    trace_id: str
    spans: tuple[dict[str, Any], ...]
    processes: dict[str, Any]

    @cached_property
    def services(self) -> set[str]:
        return {self.processes[span["processID"]]["serviceName"] for span in self.spans}

    @cached_property
    def names(self) -> set[str]:
        return {span["operationName"] for span in self.spans}

    def tags(self, span: dict[str, Any]) -> dict[str, Any]:
        return {tag["key"]: tag["value"] for tag in span["tags"]}

    def linked_spans(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Spans with a link (Jaeger's FOLLOWS_FROM) to another span of this trace, and that one."""
        by_id = {span["spanID"]: span for span in self.spans}
        return [
            (span, by_id[reference["spanID"]])
            for span in self.spans
            for reference in span["references"]
            if reference["refType"] == "FOLLOWS_FROM" and reference["spanID"] in by_id
        ]


class JaegerServer:
    """`otlp_endpoint` (HTTP) is where services send spans to be seen here, `otlp_grpc` where a collector does."""

    def __init__(self, url: str, *, otlp_endpoint: str = "", otlp_grpc: str = "") -> None:
        self.otlp_endpoint = otlp_endpoint
        self.otlp_grpc = otlp_grpc
        self._client = httpx.Client(base_url=url, timeout=30)

    def is_ready(self) -> bool:
        try:
            return self._client.get("/api/services").status_code == 200
        except httpx.HTTPError:
            return False

    def services(self) -> set[str]:
        return set(self._client.get("/api/services").json()["data"] or ())

    def find(self, service: str, *, limit: int = 200, **tags: str) -> list[Trace]:
        """By tags of one span, as the search form does."""
        names = {name.replace("__", "."): value for name, value in tags.items()}
        now = int(time.time() * 1e6)
        parameters: dict[str, str | int] = {
            "service": service,
            "limit": limit,
            "tags": json.dumps(names),
            "start": now - _LOOKBACK * 1_000_000,
            "end": now,
        }
        answer = self._client.get("/api/traces", params=parameters).json()
        return [Trace(found["traceID"], tuple(found["spans"]), found["processes"]) for found in answer["data"] or ()]

    def of_request(self, request_id: str) -> Trace | None:
        found = self.find("worker", penstock__request__id=request_id)
        return found[0] if found else None

    def calls(self) -> set[tuple[str, str]]:
        """The service graph: who calls whom."""
        parameters = {"endTs": int(time.time() * 1e3), "lookback": _LOOKBACK * 1_000}
        answer = self._client.get("/api/dependencies", params=parameters).json()
        return {(edge["parent"], edge["child"]) for edge in answer["data"] or ()}


@contextmanager
def jaeger(directory: Path) -> Iterator[JaegerServer]:
    """Everything that is sent to it is kept, in memory."""
    names = ("query", "query-grpc", "otlp-http", "otlp-grpc", "admin", "http", "grpc", "agent")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    arguments = [
        str(program("jaeger-all-in-one")),
        f"--query.http-server.host-port=127.0.0.1:{ports['query']}",
        f"--query.grpc-server.host-port=127.0.0.1:{ports['query-grpc']}",
        "--collector.otlp.enabled=true",
        f"--collector.otlp.http.host-port=127.0.0.1:{ports['otlp-http']}",
        f"--collector.otlp.grpc.host-port=127.0.0.1:{ports['otlp-grpc']}",
        f"--admin.http.host-port=127.0.0.1:{ports['admin']}",
        f"--collector.http-server.host-port=127.0.0.1:{ports['http']}",
        f"--collector.grpc-server.host-port=127.0.0.1:{ports['grpc']}",
        f"--http-server.host-port=127.0.0.1:{ports['agent']}",
        "--processor.jaeger-compact.server-host-port=127.0.0.1:0",
        "--processor.jaeger-binary.server-host-port=127.0.0.1:0",
        "--processor.zipkin-compact.server-host-port=127.0.0.1:0",
    ]
    server = JaegerServer(
        f"http://127.0.0.1:{ports['query']}",
        otlp_endpoint=f"http://127.0.0.1:{ports['otlp-http']}",
        otlp_grpc=f"127.0.0.1:{ports['otlp-grpc']}",
    )
    with _running(arguments, directory / "jaeger.log", server.is_ready):
        yield server


@contextmanager
def collector(directory: Path, jaeger_grpc: str) -> Iterator[str]:
    """The OTLP/HTTP endpoint of a collector that runs deploy/otel-collector's configuration, but for its addresses."""
    port = free_port()
    configuration = yaml.safe_load(COLLECTOR_FILE.read_text())
    configuration["receivers"]["otlp"]["protocols"]["http"]["endpoint"] = f"127.0.0.1:{port}"
    configuration["exporters"]["otlp/jaeger"]["endpoint"] = jaeger_grpc
    configuration["service"]["telemetry"] = {"metrics": {"level": "none"}}
    file = directory / "collector.yaml"
    file.write_text(yaml.safe_dump(configuration))
    endpoint = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            headers = {"content-type": "application/x-protobuf"}
            return httpx.post(f"{endpoint}/v1/traces", content=b"", headers=headers, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    with _running([str(program("jaeger-collector")), f"--config={file}"], directory / "collector.log", is_ready):
        yield endpoint


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        if port not in found:
            found.append(port)
    return found


@contextmanager
def _running(arguments: list[str], log_file: Path, is_ready: Any) -> Iterator[None]:
    with ExitStack() as stack:
        log = stack.enter_context(log_file.open("wb"))
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(_stop, process)
        give_up_at = time.monotonic() + _START_SECONDS
        while not is_ready():
            assert process.poll() is None, log_file.read_text()[-2_000:]
            assert time.monotonic() < give_up_at, f"{arguments[0]} is not ready"
            time.sleep(0.1)
        yield


def _stop(process: subprocess.Popen[bytes]) -> None:
    """It keeps nothing, so what it does not finish in time is not waited for."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
