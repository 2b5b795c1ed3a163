"""Processors that a process may use, by affinity and by a container's quota."""

import os
from pathlib import Path

import pytest

from shared.resilience.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def test_without_a_quota_it_is_what_the_scheduler_allows(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("1600000 100000", 8)]
)
def test_a_containers_quota_is_the_limit(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("300000", 3), ("-1", 8)])
def test_the_older_control_groups_say_it_in_two_files(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("content", ["", "none", "1 2 3", "100000 0"])
def test_a_file_that_says_something_else_is_no_limit(tmp_path: Path, content: str) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert usable_cores(tmp_path) == 8
