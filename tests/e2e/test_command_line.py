"""`penstock up` as a process: what its commands show while it runs, and how Ctrl-C ends it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest

from services.cli.stack_state import StackState, running_stack
from tests.fixtures.stack import TINY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

Found = TypeVar("Found")
PENSTOCK = [sys.executable, "-P", "-m", "services.cli"]


def eventually(look: Callable[[], Found | None], *, seconds: float, what: str) -> Found:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@dataclass(frozen=True)
class RunningUp:
    process: subprocess.Popen[str]
    data_dir: Path
    state: StackState

    def penstock(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PENSTOCK, *arguments, "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def family(self) -> list[psutil.Process]:
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]


@pytest.fixture
def running_up(tiny_model: Path, tmp_path: Path) -> Iterator[RunningUp]:
    data_dir = tmp_path / "data"
    ports = [item for name in ("http", "supervisor", "kafka", "redis") for item in (f"--{name}-port", "0")]
    log = (tmp_path / "up.log").open("w+")
    process = subprocess.Popen(
        [*PENSTOCK, "up", "--model", str(tiny_model), "--dtype", "float32", "--data-dir", str(data_dir), *ports],
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def is_up() -> StackState | None:
        assert process.poll() is None, (tmp_path / "up.log").read_text()
        return running_stack(data_dir) if "Penstock is up" in (tmp_path / "up.log").read_text() else None

    try:
        yield RunningUp(process, data_dir, eventually(is_up, seconds=90, what="penstock up"))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        log.close()


def test_commands_work_on_a_running_stack_and_ctrl_c_drains_it(running_up: RunningUp) -> None:
    generated = running_up.penstock("generate", "Hello there", "--max-tokens", "12")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.strip()
    request_id = generated.stderr.split("request ")[1].split(";")[0]

    fleet = running_up.penstock("fleet", "--json")
    (worker,) = json.loads(fleet.stdout)["workers"]
    assert (worker["worker_id"], worker["state"], worker["models"]) == ("default-0", "ready", [TINY])
    assert "default-0" in running_up.penstock("fleet").stdout

    screen = running_up.penstock("top", "--once").stdout
    for part in ("default-0", "time to first token", "interactive", "closed", "worker-ready"):
        assert part in screen

    def traced() -> str | None:
        shown = running_up.penstock("trace", request_id)
        return shown.stdout if shown.returncode == 0 and "decode" in shown.stdout else None

    assert "POST /v1/chat/completions" in eventually(traced, seconds=30, what="the trace")
    assert running_up.penstock("trace", "no-such-request").returncode == 1

    waterfall = httpx.get(f"{running_up.state.supervisor_url}/requests/{request_id}/trace").json()["spans"]
    assert {"POST /v1/chat/completions", "prefill", "decode"} <= {row["name"] for row in waterfall}

    titles = {name for process in running_up.family() for name in [" ".join(process.cmdline())]}
    for service in ("services.gateway", "services.worker", "services.supervisor"):
        assert any(service in title for title in titles), titles

    family = running_up.family()
    streamed: list[str] = []
    first_event = threading.Event()

    def stream_to_the_end() -> None:
        body = {"model": TINY, "prompt": "x", "max_tokens": 600, "stream": True, "ignore_eos": True}
        with httpx.stream("POST", f"{running_up.state.http_url}/v1/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                streamed.append(line)
                first_event.set()

    streaming = threading.Thread(target=stream_to_the_end)
    streaming.start()
    assert first_event.wait(30)
    running_up.process.send_signal(signal.SIGINT)
    assert running_up.process.wait(60) == 0
    streaming.join(10)
    assert streamed[-1] == "data: [DONE]" or streamed[-2:] == ["data: [DONE]", ""]
    assert not any('"error"' in line for line in streamed)
    assert [process for process in family if process.is_running() and process.status() != "zombie"] == []
    assert running_stack(running_up.data_dir) is None


def test_a_misspelt_setting_stops_the_start_and_suggests_the_right_name(tmp_path: Path) -> None:
    result = subprocess.run(
        [*PENSTOCK, "up", "--data-dir", str(tmp_path)],
        env={**os.environ, "PENSTOCK_UP_WORKRES": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "PENSTOCK_UP_WORKRES" in result.stderr
    assert "PENSTOCK_UP_WORKERS" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["up", "--model", "/no/such/model"], "does not exist"),
        (["up", "--workers", "-1"], "workers"),
        (["up", "--pool", "Not A Name"], "pool"),
        (["fleet"], "no stack runs"),
        (["trace", "x"], "holds no spans"),
    ],
)
def test_a_wrong_use_is_one_readable_sentence(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    result = subprocess.run(
        [*PENSTOCK, *arguments, "--data-dir", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
