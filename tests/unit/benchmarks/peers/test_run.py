"""What a run in parts keeps."""

import json
from pathlib import Path

from tests.benchmarks.peers.checkpoints import QWEN2_05B
from tests.benchmarks.peers.report import Report
from tests.benchmarks.peers.run import find_model, write_reports


def part(*arguments: str) -> Report:
    report = Report(model="qwen2", config=QWEN2_05B, bandwidths=[1e9], products=[{"bfloat16": 1e12}])
    report.arguments = list(arguments)
    return report


def test_a_later_part_stands_behind_the_earlier_ones_with_its_own_limits(tmp_path: Path) -> None:
    target = tmp_path / "peers.json"
    write_reports([], [part("--rounds", "3")], target)
    slower = part("--long", "1")
    slower.bandwidths = [5e8]
    write_reports(json.loads(target.read_text()), [slower], target)
    found = json.loads(target.read_text())
    assert [one["arguments"] for one in found] == [["--rounds", "3"], ["--long", "1"]]
    assert [one["machine"]["bytes_per_second"] for one in found] == [1e9, 5e8]


def test_a_model_that_is_none_of_ours_is_a_directory(tmp_path: Path) -> None:
    assert find_model(str(tmp_path), tmp_path) == tmp_path


def test_a_model_that_was_made_before_is_taken_as_it_is(tmp_path: Path) -> None:
    made = tmp_path / "qwen2-0.5b-random"
    made.mkdir()
    (made / "config.json").write_text("{}")
    assert find_model("qwen2", tmp_path) == made
