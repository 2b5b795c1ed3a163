"""`make compose-check`: docker-compose.yml brought up for real, looked at from outside, broken, and taken down.

COMPOSE_KEEP=1 leaves the built images for the next run (about 8 GB in the cache directory); the stack never stays.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import yaml

from services.cli.embedded.kafka_jars import default_cache_directory
from tests.compose import checks
from tests.compose.checks import CheckFailed
from tests.compose.containers import (
    COMPOSE_FILE,
    CommandFailed,
    Containers,
    NoContainers,
    private_containers,
    refuse_without_tools,
)
from tests.compose.stand_ins import LEFT_OUT, PYTHON, build_stand_ins
from tests.go_programs.build import GoMissing

KEEP = os.environ.get("COMPOSE_KEEP") == "1"
OURS = {"gateway and supervisor": "penstock/platform:0.1.0", "worker": "penstock/worker:0.1.0"}
SERVICES = ("gateway", "supervisor", "worker")
_BUILT = ("topics", "worker")
"""A service for each of our two images."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    try:
        refuse_without_tools()
        with private_containers(default_cache_directory() / "containers", keep=KEEP) as containers:
            return check(containers)
    except (NoContainers, GoMissing) as missing:
        print(missing, file=sys.stderr)
        return 2


def check(containers: Containers) -> int:
    say("base images, built here since none is pulled; they hold nothing of ours")
    build_stand_ins(containers, lambda what: say(f"  {what}"))
    say("our images, from the compose file")
    for service in _BUILT:
        containers.compose_build(service)
    report_sizes(containers)
    say(f"left out: {', '.join(LEFT_OUT)} (no image of it can be built here)")
    try:
        failed = look(containers)
    finally:
        say("down")
        containers.compose("down", "--volumes", "--timeout", "20")
    left = containers.left_behind()
    if left:
        failed.append("down")
        say(f"FAILED  down leaves something behind: {left}")
    else:
        say("passed  down leaves no container, volume, network or pod")
    say(f"{len(failed)} failed" if failed else "compose-check passed")
    return 1 if failed else 0


def look(containers: Containers) -> list[str]:
    """The names of the checks that failed; those after it are tried all the same."""
    failed: list[str] = []
    request_id = ""

    def passes(name: str, see: Callable[[], str]) -> None:
        try:
            say(f"passed  {name}: {see()}")
        except (CheckFailed, CommandFailed, AssertionError, OSError, ValueError, KeyError) as error:
            failed.append(name)
            say(f"FAILED  {name}: {type(error).__name__}: {error}")

    def http() -> str:
        nonlocal request_id
        seen, request_id = checks.http_streams()
        return seen

    bring_up(containers)
    passes("the stack is ready", checks.ready)
    if failed:
        tell_logs(containers)
        return failed
    passes("the official OpenAI client streams through both gateways", http)
    passes("a plain producer's record is answered", checks.kafka_answers)
    passes("every Prometheus target is up", checks.prometheus_scrapes)
    passes("Jaeger holds the trace", lambda: checks.jaeger_holds(request_id))
    passes("no torch in the small image", lambda: checks.no_torch(containers))
    passes("containers are bounded", lambda: checks.containers_are_bounded(containers))
    passes("every health check passes", lambda: checks.containers_are_healthy(containers))
    passes("a killed worker container loses nothing", lambda: checks.worker_killed(containers))
    passes("the volumes keep what is theirs", lambda: checks.volumes_keep(containers))
    if failed:
        tell_logs(containers)
    return failed


def bring_up(containers: Containers) -> None:
    """In the order of the file's `depends_on`: podman 4 ignores health, and starts an ended dependency once more."""
    ours = [name for name in started() if name.split("-2")[0] in SERVICES]
    containers.compose("up", "--detach", "--no-build", "--no-deps", *(n for n in started() if n not in ours))
    for once in ("topics", "model"):
        name = next(c["Names"][0] for c in containers.of_project() if f"_{once}_" in c["Names"][0])
        checks.eventually(f"{once} is done", lambda name=name: checks.has_ended_well(containers, name))
        say(f"  {once} is done")
    containers.compose("up", "--detach", "--no-build", "--no-deps", *ours)


def started() -> list[str]:
    """The services of the default profile, but for what is left out."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return [
        name for name, service in services.items() if name not in LEFT_OUT and "cpu" in service.get("profiles", ["cpu"])
    ]


def report_sizes(containers: Containers) -> None:
    base = containers.image_bytes(PYTHON)
    for name, tag in OURS.items():
        size = containers.image_bytes(tag)
        say(f"  {tag} ({name}): {size / 1e6:,.0f} MB, {(size - base) / 1e6:,.0f} MB of it above the base image")


def tell_logs(containers: Containers) -> None:
    for container in containers.of_project():
        name = container["Names"][0]
        say(f"--- {name}: {container['State']}, {container.get('ExitCode')}")
        print(containers.podman("logs", "--tail", "15", name))


if __name__ == "__main__":
    sys.exit(main())
