"""`penstock bench quantization`."""

import json
from typing import Any

import typer
from typer.testing import CliRunner

from services.worker.offline import quantization_benchmark as tool


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
