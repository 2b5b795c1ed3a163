"""`penstock bench quantization`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from services.worker.offline import quantization_benchmark as tool
from tests.fixtures.random_models import SaveModel
from tests.fixtures.tiny_tokenizers import with_tokenizer


def command_line(*arguments: str) -> Any:
    application = typer.Typer()
    application.command()(tool._command)
    return CliRunner().invoke(application, list(arguments))


def test_the_tensors_errors_come_as_a_table_and_as_json(monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    shown = command_line("--tensor")
    assert shown.exit_code == 0
    assert "s^2/12" in shown.output
    assert "per group of 50" in shown.output
    rows = json.loads(command_line("--tensor", "--json").output)
    assert [row["bits"] for row in rows] == [8, 8, 8, 4, 4, 4, 2, 2, 2]


@pytest.fixture
def model(tmp_path: Path, random_model: SaveModel) -> Path:
    return with_tokenizer(random_model("llama, tied")[0], tmp_path / "model")


def _row_of(output: str, name: str) -> dict[str, Any]:
    (row,) = [row for row in json.loads(output)["rows"] if row["name"] == name]
    return row


def test_rows_are_made_measured_and_kept(model: Path, tmp_path: Path) -> None:
    rows = "16-bit,int8-rtn,int4-rtn-g64,int4-gptq-g64,int2-rtn-g64"
    arguments = ("--model", str(model), "--rows", rows, "--made", str(tmp_path / "made"), "--sequences", "2", "--quick")
    finished = command_line(*arguments, "--rounds", "0", "--json")
    assert finished.exit_code == 0, finished.output
    plain = _row_of(finished.stdout, "16-bit")
    assert plain["accuracy"]["agreement"] == 1.0
    assert abs(plain["accuracy"]["divergence"]) < 1e-3
    assert plain["size"]["bits_per_weight"] == 32  # this one is float32
    divergences = [_row_of(finished.stdout, name)["accuracy"]["divergence"] for name in rows.split(",")[1:]]
    int8, rounded, calibrated, int2 = divergences
    assert 0 < int8 < calibrated < rounded < int2
    assert _row_of(finished.stdout, "int4-rtn-g64")["size"]["bits_per_weight"] < 6
    made = tmp_path / "made" / "int4-gptq-g64" / "config.json"
    written = made.stat().st_mtime_ns
    again = command_line(*arguments[:3], "int4-gptq-g64", *arguments[4:], "--rounds", "0", "--json")
    assert _row_of(again.stdout, "int4-gptq-g64") == _row_of(finished.stdout, "int4-gptq-g64")
    assert made.stat().st_mtime_ns == written


def test_a_run_that_was_cut_short_goes_on_where_it_was(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_QUICK_WINDOWS", 2)
    monkeypatch.setattr(tool, "_WINDOW_TOKENS", 64)
    made = tmp_path / "made"
    arguments = ("--model", str(model), "--made", str(made), "--sequences", "2", "--quick", "--json")
    begun = command_line(*arguments, "--rows", "16-bit,int8-rtn", "--rounds", "1")
    assert begun.exit_code == 0, begun.output
    gone_on = command_line(*arguments, "--rows", "16-bit,int8-rtn", "--rounds", "2")
    first, second = json.loads(begun.stdout), json.loads(gone_on.stdout)
    assert first["rows"] == second["rows"]
    for before, after in zip(first["speed"], second["speed"], strict=True):
        assert (before["name"], len(after["rounds"]["8"])) == (after["name"], 2)
        assert after["rounds"]["8"][:1] == before["rounds"]["8"]

    (made / "measured.json").write_text("{")
    refused = command_line(*arguments, "--rows", "16-bit", "--rounds", "0")
    assert (refused.exit_code, "holds no figures of an earlier run" in refused.stderr) == (2, True)


def test_the_tables_show_accuracy_and_speed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(tool, "_QUICK_WINDOWS", 2)
    monkeypatch.setattr(tool, "_WINDOW_TOKENS", 64)
    shown = command_line("--model", str(model), "--rows", "16-bit,int8-rtn-a8", "--quick", "--rounds", "1")
    assert shown.exit_code == 0, shown.output
    assert "same best token" in shown.stdout
    assert "decode, batch 32" in shown.stdout
    assert shown.stdout.count("int8-rtn-a8") == 2


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_on_a_busy_machine_speed_is_counted_in_the_processor_time_of_one_thread(
    model: Path, own_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_QUICK_WINDOWS", 2)
    monkeypatch.setattr(tool, "_WINDOW_TOKENS", 64)
    arguments = ("--model", str(model), "--rows", "16-bit", "--quick", "--rounds", "1", "--processor-time", "--json")
    finished = command_line(*arguments, "--num-threads", "1")
    assert finished.exit_code == 0, finished.output
    (rates,) = json.loads(finished.stdout)["speed"]
    assert all(rate > 0 for one in rates["rounds"].values() for rate in one)
    refused = command_line(*arguments, "--num-threads", "2")
    assert (refused.exit_code, "that of one thread" in refused.stderr) == (2, True)


def test_what_cannot_be_measured_is_said(model: Path) -> None:
    assert "--model is needed" in command_line().stderr
    unknown = command_line("--model", str(model), "--rows", "int5")
    assert (unknown.exit_code, "no such rows: int5" in unknown.stderr) == (2, True)
    missing = command_line("--model", str(model / "nowhere"))
    assert (missing.exit_code, "nowhere: there is no such file" in missing.stderr) == (2, True)
