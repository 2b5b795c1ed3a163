"""What is asked of the running containers, from outside, as strangers ask: published ports only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from openai import OpenAI

from services.cli.foreign_clients.kafka_client import Receipt, ResultReader, post
from tests.compose.containers import PROJECT, Containers
from tests.observability.jaeger_server import JaegerServer

GATEWAYS = ("http://127.0.0.1:8000", "http://127.0.0.1:8010")
SUPERVISORS = ("http://127.0.0.1:8001", "http://127.0.0.1:8011")
PROMETHEUS, JAEGER, KAFKA = "http://127.0.0.1:9090", "http://127.0.0.1:16686", "127.0.0.1:29092"
MODEL = "SmolLM2-135M-Instruct"
TOPIC = "inference.requests.default.interactive"
_STREAMS, _RECORDS, _TOKENS = 4, 6, 120
_WAIT_SECONDS = 300.0
_Found = TypeVar("_Found")


class CheckFailed(AssertionError):
    """What was expected and what was seen."""


@dataclass(frozen=True, slots=True)
class Streamed:
    text: str
    pieces: int
    tokens: int
    finish_reason: str | None
    request_id: str


def eventually(what: str, look: Callable[[], _Found | None], seconds: float = _WAIT_SECONDS) -> _Found:
    """What `look` finds in the end. Raises `CheckFailed`."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except (httpx.HTTPError, KeyError, ValueError):
            found = None
        if found:
            return found
        if time.monotonic() > give_up_at:
            raise CheckFailed(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)


def has_ended_well(containers: Containers, name: str) -> bool:
    state = containers.inspect(name)["State"]
    return not state["Running"] and state["Status"] == "exited" and state["ExitCode"] == 0


def ready() -> str:
    for url in (*GATEWAYS, *SUPERVISORS):
        eventually(f"{url} is ready", lambda url=url: httpx.get(f"{url}/readyz", timeout=5).status_code == 200)
    eventually("two workers are ready", lambda: len(ready_workers()) == 2)
    return "two gateways, two supervisors and two workers are ready"


def ready_workers() -> dict[str, dict[str, Any]]:
    workers = httpx.get(f"{SUPERVISORS[0]}/fleet", timeout=5).json()["workers"]
    return {worker["worker_id"]: worker for worker in workers if worker["state"] == "ready"}


def stream(url: str, prompt: str, tokens: int) -> Streamed:
    """The official client, greedy, to the end."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=0)
    with client.chat.completions.with_streaming_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ) as response:
        request_id = response.headers["x-request-id"]
        chunks = list(response.parse())
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    used = chunks[-1].usage.completion_tokens if chunks[-1].usage else 0
    return Streamed("".join(pieces), len(pieces), used, choices[-1].finish_reason, request_id)


def http_streams() -> tuple[str, str]:
    """The finding and the id of a request."""
    answers = [stream(url, "Name three colours.", 24) for url in GATEWAYS]
    for answer in answers:
        if answer.finish_reason != "length" or answer.pieces < 2:
            raise CheckFailed(f"no stream to its end: {answer}")
    return f"{answers[0].pieces} pieces: {answers[0].text[:40]!r}", answers[0].request_id


def kafka_answers() -> str:
    reader = ResultReader(KAFKA, "inference.results")
    (receipt,) = post(KAFKA, TOPIC, [b'{"prompt": "A message queue is", "max_tokens": 12}'])
    found = next((result for result in reader.results(timeout_seconds=120) if result.receipt == receipt), None)
    reader.close()
    if found is None or b'"choices"' not in found.value:
        raise CheckFailed(f"the record was not answered: {found}")
    return f"record at {receipt.topic}@{receipt.partition}:{receipt.offset} answered on inference.results"


def prometheus_scrapes() -> str:
    wanted = {"gateway": 2, "supervisor": 2, "worker": 2}

    def up() -> dict[str, int] | None:
        targets = httpx.get(f"{PROMETHEUS}/api/v1/targets", timeout=5).json()["data"]["activeTargets"]
        counts: dict[str, int] = {}
        for target in targets:
            if target["health"] != "up":
                return None
            counts[target["labels"]["job"]] = counts.get(target["labels"]["job"], 0) + 1
        return counts if counts == wanted else None

    found = eventually(f"every target is up: {wanted}", up, 120)
    rules = httpx.get(f"{PROMETHEUS}/api/v1/rules", timeout=5).json()["data"]["groups"]
    unwell = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
    if unwell or not rules:
        raise CheckFailed(f"rules that cannot be evaluated: {unwell or 'none loaded'}")
    return f"{sum(found.values())} targets up, {sum(len(group['rules']) for group in rules)} rules evaluated"


def jaeger_holds(request_id: str) -> str:
    jaeger = JaegerServer(JAEGER)
    trace = eventually("Jaeger holds the trace", lambda: whole_trace(jaeger, request_id), 90)
    services = sorted(trace.services)
    if services != ["gateway", "worker"]:
        raise CheckFailed(f"the trace has spans of {services}")
    return f"{len(trace.spans)} spans of {' and '.join(services)}, found by request id, through the collector"


def whole_trace(jaeger: JaegerServer, request_id: str) -> Any:
    found = jaeger.of_request(request_id)
    return found if found and {"decode", "stream"} <= found.names else None


def worker_killed(containers: Containers) -> str:
    """Streams and records under way; the container whose worker runs most of them is killed from outside."""
    expected = [stream(GATEWAYS[0], prompt(number), _TOKENS).text for number in range(_STREAMS)]
    reader = ResultReader(KAFKA, "inference.results")
    body = b'{"prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": true}'
    with ThreadPoolExecutor(_STREAMS) as pool:
        waiting = [pool.submit(stream, GATEWAYS[n % 2], prompt(n), _TOKENS) for n in range(_STREAMS)]
        receipts = post(KAFKA, TOPIC, [body] * _RECORDS)
        victim = eventually("a worker runs requests", busiest_worker, 60)
        kill(containers, victim)
        seen = [answer.result() for answer in waiting]
    for number, answer in enumerate(seen):
        if answer.finish_reason != "length" or answer.tokens != _TOKENS:
            raise CheckFailed(f"stream {number} after the kill: {answer}")
    same = sum(answer.text == text for answer, text in zip(seen, expected, strict=True))
    if wrong := badly_answered(reader, receipts):
        raise CheckFailed(f"records without a result, or with contradicting ones: {wrong}")
    eventually("the killed worker is back", lambda: len(ready_workers()) == 2)
    jaeger = JaegerServer(JAEGER)
    ids = [answer.request_id for answer in seen]
    linked = eventually(
        "a second attempt links to the first in Jaeger",
        lambda: sum(1 for request_id in ids if (t := jaeger.of_request(request_id)) and t.linked_spans()),
        90,
    )
    return (
        f"{_STREAMS} streams to their last token ({same} with the words they have without the kill), "
        f"{_RECORDS} records answered, "
        f"{linked} traces with a second attempt that links to the first; the container came back by itself"
    )


def prompt(number: int) -> str:
    return f"Write a short story about a river, version {number}."


def busiest_worker() -> str | None:
    loads = {worker_id: worker["running_requests"] for worker_id, worker in ready_workers().items()}
    busiest = max(loads, key=lambda worker_id: loads[worker_id])
    return busiest if loads[busiest] >= 2 else None


def kill(containers: Containers, worker_id: str) -> None:
    """As the kernel does when memory is short: podman is not asked, its restart policy has to act."""
    for container in containers.of_project():
        details = containers.inspect(container["Names"][0])
        if details["Config"]["Hostname"] in worker_id or details["Id"].startswith(worker_id):
            os.kill(details["State"]["Pid"], signal.SIGKILL)
            return
    raise CheckFailed(f"no container belongs to worker {worker_id}")


def badly_answered(reader: ResultReader, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Without a result, or with several that differ: a crash may repeat the same bytes, never others."""
    values: dict[Receipt, set[bytes]] = {receipt: set() for receipt in receipts}
    for seconds in (180, 3):
        for result in reader.results(timeout_seconds=seconds):
            if result.receipt in values:
                values[result.receipt].add(result.value)
            if seconds > 3 and all(values.values()):
                break
    reader.close()
    return [receipt for receipt, found in values.items() if len(found) != 1]


def containers_are_healthy(containers: Containers) -> str:
    """Each container's own health check, run by hand: without systemd podman runs none by itself."""
    checked = 0
    for container in containers.of_project():
        details = containers.inspect(container["Names"][0])
        if details["State"]["Running"] and details["Config"].get("Healthcheck"):
            containers.podman("healthcheck", "run", container["Names"][0], timeout_seconds=60)
            checked += 1
    return f"{checked} health checks pass"


def containers_are_bounded(containers: Containers) -> str:
    """Nobody is root, nobody may gain privileges, everybody has a memory limit."""
    loose = []
    running = [container for container in containers.of_project() if container["State"] == "running"]
    for container in running:
        name = container["Names"][0]
        details = containers.inspect(name)
        user = containers.podman("top", name, "user").split()[1:]
        if set(user) & {"root", "0"}:
            loose.append(f"{name} runs as root")
        if not details["HostConfig"]["Memory"]:
            loose.append(f"{name} has no memory limit")
        if details["EffectiveCaps"]:
            loose.append(f"{name} keeps {details['EffectiveCaps']}")
    if loose:
        raise CheckFailed("; ".join(loose))
    return f"{len(running)} containers: none is root, none has a capability, all have a memory limit"


def no_torch(containers: Containers) -> str:
    heavy = "('torch', 'numpy', 'triton')"
    look = f"import importlib.util as u, os; print([n for n in {heavy} if u.find_spec(n)], os.getuid())"
    said = containers.podman("run", "--rm", "penstock/platform:0.1.0", "python", "-c", look)
    if said != "[] 10001":
        raise CheckFailed(f"the platform image: {said}")
    return "gateway and supervisor image: no torch, numpy or triton; user 10001"


def volumes_keep(containers: Containers) -> str:
    """What Kafka, Redis and the model's import wrote lies in named volumes, not in a container that goes."""
    looks = {
        "kafka": "ls /var/lib/kafka/data/inference.results-0",
        "redis": "ls /data/appendonlydir",
        "worker": "ls /models/SmolLM2-135M-Instruct/model.safetensors",
        "prometheus": "ls /prometheus/wal",
    }
    for service, look in looks.items():
        name = next(c["Names"][0] for c in containers.of_project() if f"_{service}_" in c["Names"][0])
        folder = look.split()[1]
        mounts = [mount for mount in containers.inspect(name)["Mounts"] if folder.startswith(mount["Destination"])]
        if not any(mount["Type"] == "volume" and mount["Name"].startswith(PROJECT) for mount in mounts):
            raise CheckFailed(f"{folder} of {name} is on no named volume: {mounts}")
        containers.podman("exec", name, *look.split())
    return f"{', '.join(looks)} write to named volumes"
