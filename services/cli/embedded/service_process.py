"""One service as a child process: started, watched, started again when it dies, stopped gently.

Knows nothing of what the service does. A service that ends with status 2 refused its settings; starting it again
would not help, so that ends the stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from shared.resilience.parent_death import die_with_parent

CONFIGURATION_ERROR = 2
_FIRST_BACKOFF_SECONDS = 0.5
_LAST_BACKOFF_SECONDS = 15.0
_HEALTHY_AFTER_SECONDS = 20.0


class ServiceState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    STOPPED = "stopped"
    REFUSED = "refused its settings"


class ServiceProcess:
    """Keeps `python -P -m MODULE` running until `stop`.

    `on_change(service, note)` is called in the event loop at every change of state.
    """

    def __init__(
        self,
        *,
        name: str,
        module: str,
        environment: Mapping[str, str],
        log_file: Path,
        on_change: Callable[[ServiceProcess, str], None] = lambda service, note: None,
    ) -> None:
        self.name = name
        self.module = module
        self.state = ServiceState.STOPPED
        self.restarts = 0
        self.log_file = log_file
        self._environment = dict(environment)
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def keep_running(self) -> None:
        """Start the process and restart it whenever it ends, until `stop`; returns at once on refused settings."""
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stopping.is_set():
            started_at = time.monotonic()
            process = await self._spawn()
            status = await process.wait()
            if self._stopping.is_set():
                break
            if status == CONFIGURATION_ERROR:
                self._change(ServiceState.REFUSED, self.last_log_lines(3))
                return
            if time.monotonic() - started_at > _HEALTHY_AFTER_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self.restarts += 1
            self._change(ServiceState.BACKING_OFF, f"ended with {_describe(status)}; again in {backoff:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
        self._change(ServiceState.STOPPED, "")

    async def stop(self, *, grace_seconds: float) -> int | None:
        """SIGTERM, wait, SIGKILL when the grace time is over. Returns the exit status."""
        self._stopping.set()
        process = self._process
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            return await asyncio.wait_for(process.wait(), grace_seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            return await process.wait()

    def last_log_lines(self, count: int) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 8192))
                return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
        except OSError:
            return ""

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                self.module,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the stack's to handle, not each child's
                preexec_fn=die_with_parent,
            )
        self._process = process
        self._change(ServiceState.RUNNING, f"pid {process.pid}")
        return process

    def _change(self, state: ServiceState, note: str) -> None:
        self.state = state
        self._on_change(self, note)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
