"""podman and podman-compose with storage and settings of their own, so that nothing of the machine's is touched."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
PROJECT = "penstock-check"
NEEDED = {
    "podman": "podman",
    "runc": "runc",
    "debootstrap": "debootstrap",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
}
_CERTIFICATES = Path("/etc/ssl/certs")
_COMMAND_SECONDS = 3_600.0


class NoContainers(RuntimeError):
    """What is missing here, and how to get it."""


class CommandFailed(RuntimeError):
    """A command's last words."""


class Containers:
    """`podman(...)` and `compose(...)` run to their end and return what they printed. Raises `CommandFailed`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._settings = directory / "settings"
        self._settings.mkdir(parents=True, exist_ok=True)
        self._driver = "overlay" if _overlay_works(self.directory) else "vfs"
        self._write_settings()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_CONF": str(self._settings / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self._settings / "storage.conf"),
            # With the vfs driver each layer is a copy of the whole root: one a Dockerfile.
            "BUILDAH_LAYERS": "true" if self._driver == "overlay" else "false",
            "BUILDAH_FORMAT": "docker",  # which keeps health checks
        }

    def podman(self, *arguments: str, timeout_seconds: float = _COMMAND_SECONDS) -> str:
        return self._run(["podman", *arguments], timeout_seconds)

    def compose(self, *arguments: str, timeout_seconds: float = _COMMAND_SECONDS) -> str:
        command = [sys.executable, "-m", "podman_compose", "-p", PROJECT, "-f", str(COMPOSE_FILE)]
        return self._run([*command, *arguments], timeout_seconds)

    def compose_build(self, *services: str) -> None:
        """From the compose file's own build sections."""
        self.compose("--podman-build-args", shlex.join(build_arguments()), "build", *services)

    def build(self, tag: str, containerfile: Path, context: Path) -> None:
        self.podman("build", *build_arguments(), "-t", tag, "-f", str(containerfile), str(context))

    def has_image(self, tag: str) -> bool:
        return subprocess.run(["podman", "image", "exists", tag], env=self.environment, check=False).returncode == 0

    def image_bytes(self, tag: str) -> int:
        return int(self.podman("image", "inspect", "--format", "{{.Size}}", tag))

    def of_project(self) -> list[dict[str, Any]]:
        """Every container of the stack, stopped ones too."""
        label = f"label=io.podman.compose.project={PROJECT}"
        listed = self.podman("ps", "--all", "--filter", label, "--format", "json")
        found: list[dict[str, Any]] = json.loads(listed or "[]")
        return found

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.podman("inspect", name))[0]
        return found

    def left_behind(self) -> dict[str, list[str]]:
        """What of the stack is still there, by kind."""
        label = f"label=io.podman.compose.project={PROJECT}"
        lists = {
            "containers": self.podman("ps", "--all", "--quiet", "--filter", label),
            "volumes": self.podman("volume", "ls", "--quiet", "--filter", label),
            "networks": self.podman("network", "ls", "--quiet", "--filter", label),
            "pods": self.podman("pod", "ls", "--quiet", "--filter", f"name={PROJECT}"),
        }
        return {kind: listed.split() for kind, listed in lists.items() if listed.split()}

    def remove_everything(self) -> None:
        """Images and storage too."""
        for command in (("rm", "--all", "--force"), ("rmi", "--all", "--force")):
            subprocess.run(["podman", *command], env=self.environment, capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, command: Sequence[str], timeout_seconds: float) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode:
            words = (done.stdout[-2_000:] + done.stderr[-4_000:]).strip()
            raise CommandFailed(f"{' '.join(command)} ended with {done.returncode}:\n{words}")
        return done.stdout.strip()

    def _write_settings(self) -> None:
        (self._settings / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.directory / "networks"}"\n'
        )
        (self._settings / "storage.conf").write_text(
            f'[storage]\ndriver = "{self._driver}"\n'
            f'graphroot = "{self.directory / "graph"}"\nrunroot = "{self.directory / "run"}"\n'
        )


def build_arguments() -> list[str]:
    """Builds reach the registries as this machine does: its network, its certificates, its mirror."""
    arguments = ["--network", "host"]
    if _CERTIFICATES.is_dir():
        arguments += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        if value := os.environ.get(name):
            arguments += ["--build-arg", f"{name}={value}"]
    return arguments


def refuse_without_tools() -> None:
    """Raises `NoContainers` with the one line that repairs it."""
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing:
        raise NoContainers(f"make compose-check needs: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise NoContainers("make compose-check builds base images with debootstrap, which needs root")


@contextmanager
def private_containers(directory: Path, *, keep: bool) -> Iterator[Containers]:
    containers = Containers(directory)
    try:
        yield containers
    finally:
        if not keep:
            containers.remove_everything()


def _overlay_works(directory: Path) -> bool:
    """A trial mount: overlay stores a layer's difference, vfs (which works anywhere) a copy of everything."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        parts = {name: Path(folder) / name for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            part.mkdir()
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])], capture_output=True, check=False
        )
        if mounted.returncode == 0:
            subprocess.run(["umount", str(parts["merged"])], check=True)
        return mounted.returncode == 0
