"""A child asks the kernel to go with its parent. Real processes: a parent that dies without a word, and its child."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise exists on Linux only")

PARENT = """
import subprocess, sys
from shared.resilience.parent_death import die_with_parent
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(60)"], preexec_fn={preexec}, stdout=subprocess.DEVNULL
)
print(child.pid, flush=True)
import time; time.sleep(60)
"""


def child_of_killed_parent(preexec: str) -> int:
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(preexec=preexec)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    return child


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_child_of_a_killed_parent_ends() -> None:
    child = child_of_killed_parent("die_with_parent")
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def test_without_the_request_the_child_would_live_on() -> None:
    child = child_of_killed_parent("None")
    try:
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)
