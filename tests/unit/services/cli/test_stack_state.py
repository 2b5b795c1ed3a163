"""Finding the running stack by its data directory."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.cli.console import CommandFailed
from services.cli.stack_state import StackState, remove_state, require_stack, running_stack

STATE = StackState(
    pid=os.getpid(),
    http_url="http://127.0.0.1:8000",
    supervisor_url="http://127.0.0.1:8001",
    kafka="127.0.0.1:9092",
    redis="redis://127.0.0.1:6379/0",
    span_database="spans.sqlite",
    pool="default",
)


def test_a_written_state_is_found(tmp_path: Path) -> None:
    STATE.write(tmp_path)
    assert running_stack(tmp_path) == STATE


def test_a_state_whose_process_is_gone_is_no_running_stack(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    replace(STATE, pid=gone.pid).write(tmp_path)
    assert running_stack(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_file_is_no_running_stack(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    assert running_stack(tmp_path) is None


def test_requiring_a_stack_that_does_not_run_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no stack runs") as failure:
        require_stack(tmp_path)
    assert "penstock up" in str(failure.value.hint)


def test_a_removed_state_is_gone_and_removing_twice_is_harmless(tmp_path: Path) -> None:
    STATE.write(tmp_path)
    remove_state(tmp_path)
    remove_state(tmp_path)
    assert running_stack(tmp_path) is None
