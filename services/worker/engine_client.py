"""The shell's side of the engine: starts the process, writes to it, hears it, restarts it. Knows no requests' fate.

Everything runs on the event loop; nothing here blocks. What the engine says goes to an `EngineListener` straight
from the socket's callback, one call per message, so that a step costs no task. When the process ends, the listener
is told once; its requests are then gone from the engine, and whoever submitted them submits them again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import structlog

from services.worker.engine.events import (
    Cancel,
    EngineDied,
    EngineReady,
    Shutdown,
    StepResult,
    Submit,
)
from services.worker.engine_process import EngineProcessConfig, encode_config
from services.worker.frames import BrokenFrame, FrameReader, Message, encode_frame
from services.worker.submission_names import SubmissionNames
from shared.contracts.errors import EngineFailed
from shared.resilience.openmp import with_short_spins, with_threads

_log = structlog.get_logger(__name__)
_ROOT = Path(__file__).parents[2]


class EngineHopeless(EngineFailed):
    """It refused a setting or a file; starting it again would change nothing."""


class EngineListener(Protocol):
    """Who hears the engine. Called on the event loop, must not block or raise."""

    def engine_ready(self, ready: EngineReady) -> None: ...
    def step_finished(self, result: StepResult) -> None: ...
    def engine_lost(self, reason: str) -> None:
        """The process is gone and with it every request submitted since it was ready."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a dead engine is started again, and when no longer."""

    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 10.0
    max_restarts: int = 5
    window_seconds: float = 300.0

    def delay_seconds(self, recent_restarts: int) -> float:
        return float(min(self.max_delay_seconds, self.first_delay_seconds * 2.0 ** max(0, recent_restarts - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogLimits:
    """How long a silent engine with work is believed to be alive."""

    step_seconds: float = 60.0
    load_seconds: float = 900.0


class _EngineConnection(asyncio.Protocol):
    """One life's socket, read by callbacks."""

    def __init__(self, hear: Callable[[Message], None]) -> None:
        self._hear = hear
        self._reader = FrameReader()
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class does not derive from it

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except BrokenFrame as error:
            _log.error("engine_sent_garbage", error=str(error))
            assert self.transport is not None
            self.transport.abort()
            return
        for message in messages:
            self._hear(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def write(self, message: Message) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(encode_frame(message))


class EngineClient:
    """One engine, through all its lives. `run` is its task; the other methods return at once."""

    def __init__(
        self,
        config: EngineProcessConfig,
        *,
        restarts: RestartPolicy | None = None,
        watchdog: WatchdogLimits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._listener: EngineListener | None = None
        self._restarts = restarts or RestartPolicy()
        self._watchdog = watchdog or WatchdogLimits()
        self._environment = dict(os.environ if environment is None else environment)
        self._connection: _EngineConnection | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._outstanding: set[str] = set()
        self._names = SubmissionNames()
        self._silent_since = 0.0
        self._restart_times: deque[float] = deque()
        self._last_words = ""
        self._is_hopeless = False
        self._is_closing = False
        self.ready: EngineReady | None = None
        self.num_restarts = 0

    @property
    def is_ready(self) -> bool:
        return self.ready is not None

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def submit(self, submit: Submit) -> None:
        """Raises `EngineFailed` while there is no engine."""
        if self._connection is None or self.ready is None:
            raise EngineFailed("the engine is not running")
        if not self._outstanding:
            self._silent_since = asyncio.get_running_loop().time()
        self._outstanding.add(submit.request_id)
        self._connection.write(self._names.named(submit))

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        name = self._names.name_of(request_id)
        if choice is None:
            self._outstanding.discard(request_id)
            self._names.gave_up(request_id)
        if self._connection is not None:
            self._connection.write(Cancel(request_id=name, choice=choice))

    def retire(self, request_id: str) -> None:
        """Nothing more is expected of this request: the engine ended its last choice."""
        self._outstanding.discard(request_id)
        self._names.ended(request_id)

    async def run(self, listener: EngineListener) -> None:
        """Keep an engine alive until `close`. Raises `EngineFailed` after too many deaths, `EngineHopeless` at once."""
        self._listener = listener
        while not self._is_closing:
            reason = await self._live_once()
            if self._is_closing:
                return
            if self._is_hopeless:
                raise EngineHopeless(reason)
            self.num_restarts += 1
            _log.error("engine_lost", reason=reason, restarts=self.num_restarts)
            listener.engine_lost(reason)
            await asyncio.sleep(self._next_delay(reason))

    def _next_delay(self, reason: str) -> float:
        now = asyncio.get_running_loop().time()
        self._restart_times.append(now)
        while self._restart_times[0] < now - self._restarts.window_seconds:
            self._restart_times.popleft()
        recent = len(self._restart_times)
        if recent > self._restarts.max_restarts:
            raise EngineFailed(
                f"the engine died {recent} times within {self._restarts.window_seconds:.0f} s; last: {reason}"
            )
        return self._restarts.delay_seconds(recent)

    async def close(self) -> None:
        """Shut the engine down, kindly for a second. Idempotent; `run` returns."""
        self._is_closing = True
        if self._connection is not None:
            self._connection.write(Shutdown())
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def _live_once(self) -> str:
        """One life of the process, from start to the end of its socket. Returns why it ended."""
        loop = asyncio.get_running_loop()
        self._last_words = ""
        self._silent_since = loop.time()
        connection = await self._start()
        try:
            while not connection.closed.done():
                await asyncio.wait({connection.closed}, timeout=self._patience())
                self._kill_if_hanging()
        finally:
            self.ready = None
            self._connection = None
            self._outstanding.clear()
            self.kill()
            if connection.transport is not None:
                connection.transport.abort()
        assert self._process is not None
        status = await self._process.wait()
        return self._last_words or f"exit status {status}"

    async def _start(self) -> _EngineConnection:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "services.worker.engine_process",
                "--fd", str(theirs.fileno()), "--parent", str(os.getpid()),
                "--config", encode_config(self._config),
                pass_fds=[theirs.fileno()],
                env=self._child_environment(),
            )  # fmt: skip
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _EngineConnection(self._hear), sock=ours
        )
        self._connection = connection
        return connection

    def _child_environment(self) -> dict[str, str]:
        environment = with_short_spins(self._environment)
        real = self._config.real
        if real is not None:
            # Before torch loads: OpenMP reads it once.
            environment = with_threads(environment, real.num_threads)
        # `-P` keeps the working directory off the path: where our packages are a checkout, name it.
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *([inherited] if inherited else [])])
        return environment

    def _patience(self) -> float:
        limit = self._watchdog.step_seconds if self.is_ready else self._watchdog.load_seconds
        return min(1.0, limit / 4)

    def _kill_if_hanging(self) -> None:
        silent = asyncio.get_running_loop().time() - self._silent_since
        if not self.is_ready and silent > self._watchdog.load_seconds:
            self._last_words = f"not ready after {silent:.0f} s"
            self.kill()
        elif self.is_ready and self._outstanding and silent > self._watchdog.step_seconds:
            self._last_words = f"no step for {silent:.1f} s"
            self.kill()

    def _hear(self, message: Message) -> None:
        self._silent_since = asyncio.get_running_loop().time()
        assert self._listener is not None
        if isinstance(message, StepResult):
            self._listener.step_finished(self._names.heard(message))
        elif isinstance(message, EngineReady):
            self.ready = message
            self._names.forget()
            self._listener.engine_ready(message)
        elif isinstance(message, EngineDied):
            self._last_words, self._is_hopeless = message.message, message.is_hopeless
        else:
            raise AssertionError(f"an engine does not send {type(message).__name__}")
