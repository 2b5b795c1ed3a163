"""Finds the jars of Apache Kafka: pinned Maven coordinates, resolved once by `jgo`, remembered in a file.

Every module is pinned, because a resolver left to choose mixes versions (kafka-clients 3.8.0 beside a 4.1.1 server
dies with NoSuchMethodError). The remembered class path makes every later start work offline and without jgo.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

KAFKA_VERSION = "4.1.1"
_KAFKA_MODULES = (
    "kafka_2.13",
    "kafka-clients",
    "kafka-server",
    "kafka-server-common",
    "kafka-metadata",
    "kafka-raft",
    "kafka-storage",
    "kafka-storage-api",
    "kafka-group-coordinator",
    "kafka-group-coordinator-api",
    "kafka-transaction-coordinator",
    "kafka-share-coordinator",
    "kafka-coordinator-common",
    "kafka-tools-api",
)
_JACKSON_MODULES = ("jackson-databind", "jackson-core", "jackson-annotations")

COORDINATES = (
    *(f"org.apache.kafka:{module}:{KAFKA_VERSION}" for module in _KAFKA_MODULES),
    *(f"com.fasterxml.jackson.core:{module}:2.19.0" for module in _JACKSON_MODULES),
    "org.slf4j:slf4j-reload4j:1.7.36",
)

Progress = Callable[[str], None]
"""Told in words what is being waited for."""


class KafkaJarsUnavailable(RuntimeError):
    """The jars are not here and could not be fetched."""


def default_cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "penstock"


def kafka_class_path(*, cache_directory: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """The jars to run Kafka with, from the remembered class path if all of them still exist."""
    remembered = (cache_directory or default_cache_directory()) / f"kafka-class-path-{_fingerprint()}.json"
    jars = _read(remembered)
    if jars is not None:
        return jars
    if progress is not None:
        progress(f"resolving Apache Kafka {KAFKA_VERSION} from Maven coordinates (once, about half a minute)")
    jars = _resolve(progress)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    temporary = remembered.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps([str(jar) for jar in jars]))
    temporary.replace(remembered)
    return jars


def _fingerprint() -> str:
    return hashlib.sha256("+".join(COORDINATES).encode()).hexdigest()[:12]


def _read(remembered: Path) -> list[Path] | None:
    try:
        jars = [Path(jar) for jar in json.loads(remembered.read_text())]
    except (OSError, ValueError):
        return None
    return jars if jars and all(jar.is_file() for jar in jars) else None


def _resolve(progress: Progress | None) -> list[Path]:
    try:
        import jgo
        from jgo.maven import PythonResolver
    except ImportError as error:
        raise KafkaJarsUnavailable("the embedded Kafka needs `pip install penstock-inference[embedded]`") from error

    @contextlib.contextmanager
    def downloading(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
        if progress is not None:
            progress(f"fetching {name} ({size_bytes / 1e6:.1f} MB)")
        yield lambda _: None

    try:
        environment = jgo.build("+".join(COORDINATES), resolver=PythonResolver(progress_callback=downloading))
    except (OSError, RuntimeError) as error:
        raise KafkaJarsUnavailable(f"could not fetch Apache Kafka's jars: {error}") from error
    # `classpath` leaves out jars that declare a module name; a class path wants them all.
    return [Path(jar) for jar in environment.all_jars]
