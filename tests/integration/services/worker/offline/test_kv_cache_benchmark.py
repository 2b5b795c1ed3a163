"""`penstock bench kv-cache`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services.worker.offline import kv_cache_benchmark as tool
from tests.fixtures.random_models import SaveModel
from tests.fixtures.tiny_tokenizers import with_tokenizer


def command_line(*arguments: str) -> Any:
    application = typer.Typer()
    application.command()(tool._command)
    return CliRunner().invoke(application, list(arguments))


@pytest.fixture
def model(tmp_path: Path, random_model: SaveModel) -> Path:
    return with_tokenizer(random_model("llama, tied")[0], tmp_path / "model")


@pytest.fixture(autouse=True)
def short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_QUICK_WINDOWS", "_PROBE_WINDOWS"):
        monkeypatch.setattr(tool, name, 2)
    monkeypatch.setattr(tool, "_WINDOW_TOKENS", 64)


def test_every_layer_gets_a_precision_within_the_budget_and_what_was_measured_is_kept(
    model: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    arguments = ("--model", str(model), "--quick", "--budget", "0.3", "--made", str(made), "--json")
    finished = command_line(*arguments)
    assert finished.exit_code == 0, finished.output
    result = json.loads(finished.stdout)
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["16bit"]["accuracy"]["divergence"] == pytest.approx(0, abs=1e-3)
    assert 0 < rows["int8"]["accuracy"]["divergence"] < rows["int4"]["accuracy"]["divergence"]
    assert rows["int4"]["bytes_per_token"] < rows["int8"]["bytes_per_token"] < rows["16bit"]["bytes_per_token"]
    choice = result["choice"]
    assert len(choice["precisions"]) == len(result["sensitivity"]["int8"])
    assert choice["measured"] <= 0.003

    def measured_again(*_: object) -> None:
        raise AssertionError("it is kept")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "measure_accuracy", measured_again)
        again = command_line(*arguments)
    assert json.loads(again.stdout) == result


def test_the_tables_show_the_cost_and_the_choice(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = command_line("--model", str(model), "--quick", "--budget", "0.3", "--kv-cache", "int8")
    assert shown.exit_code == 0, shown.output
    assert "bytes/token" in shown.stdout
    assert "chosen:" in shown.stdout
    unknown = command_line("--model", str(model), "--quick", "--kv-cache", "int3")
    assert unknown.exit_code == 2
    missing = command_line("--model", str(model / "nowhere"), "--quick")
    assert (missing.exit_code, "nowhere: there is no such file" in missing.stderr) == (2, True)
