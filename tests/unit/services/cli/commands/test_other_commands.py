"""trace, model import, and the offline tools that are passed through."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.commands import offline
from services.cli.embedded.span_store import SpanStore
from services.cli.embedded.stored_span import StoredSpan

REQUEST_ID = "a" * 32


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def span(name: str, span_id: str, parent_id: str, *, start: int, end: int) -> StoredSpan:
    return StoredSpan(
        trace_id="1" * 32,
        span_id=span_id,
        parent_id=parent_id,
        name=name,
        kind="internal",
        service="gateway",
        instance="gateway-0",
        start_ns=start,
        end_ns=end,
        status="ok",
        status_message="",
        attributes={"penstock.request.id": REQUEST_ID},
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    SpanStore(tmp_path / "spans.sqlite").write(
        [
            span("POST /v1/chat/completions", "a" * 16, "", start=1_000_000, end=9_000_000),
            span("stream", "b" * 16, "a" * 16, start=2_000_000, end=8_000_000),
        ]
    )
    return tmp_path


@pytest.mark.parametrize("given", [REQUEST_ID, f"chatcmpl-{REQUEST_ID}", f"cmpl-{REQUEST_ID}"])
def test_a_trace_is_found_by_the_request_id_in_any_of_its_forms(data_dir: Path, given: str) -> None:
    result = invoke("trace", given, "--data-dir", str(data_dir))
    assert result.exit_code == 0
    assert "POST /v1/chat/completions" in result.output
    assert "stream" in result.output


def test_an_unknown_request_says_why_it_may_be_unknown(data_dir: Path) -> None:
    result = invoke("trace", "b" * 32, "--data-dir", str(data_dir))
    assert result.exit_code == 1
    assert "no span of request" in result.output
    assert "sampling" in result.output


def test_model_import_refuses_what_is_no_file_and_what_is_already_there(tmp_path: Path) -> None:
    missing = invoke("model", "import", str(tmp_path / "no.gguf"), str(tmp_path / "out"))
    assert (missing.exit_code, "is not a file" in missing.output) == (1, True)
    (tmp_path / "config.json").write_text("{}")
    taken = invoke("model", "import", "default", str(tmp_path))
    assert (taken.exit_code, "already holds a checkpoint" in taken.output) == (1, True)


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["run-batch", "--model", "m", "-i", "a", "-o", "b"], "services.worker.offline.run_batch"),
        (["bench", "engine", "--model", "m", "--json"], "services.worker.offline.engine_benchmark"),
        (["bench", "batching", "--model", "m", "--check"], "services.worker.offline.batching_benchmark"),
        (["bench", "memory", "--block-size", "8"], "services.worker.offline.memory_benchmark"),
        (["quantize", "m", "--method", "awq", "--out", "o"], "services.worker.offline.quantize_model"),
        (["bench", "quantization", "--tensor"], "services.worker.offline.quantization_benchmark"),
    ],
)
def test_offline_tools_get_their_arguments_untouched_and_their_status_is_ours(
    monkeypatch: pytest.MonkeyPatch, command: list[str], module: str
) -> None:
    seen: list[list[str]] = []

    def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        seen.append(arguments)
        return subprocess.CompletedProcess(arguments, returncode=3)

    monkeypatch.setattr(offline.subprocess, "run", run)
    result = invoke(*command)
    (arguments,) = seen
    assert arguments[1:4] == ["-P", "-m", module]
    assert arguments[4:] == command[2 if command[0] == "bench" else 1 :]
    assert result.exit_code == 3


@pytest.mark.parametrize("command", [["run-batch", "--help"], ["bench", "engine", "--help"]])
def test_offline_tools_explain_themselves(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert invoke(*command).exit_code == 0
    assert "--model" in capfd.readouterr().out


def test_a_misspelt_setting_stops_every_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_KAFKA_BOOTSTRAP_SERVER", "k:1")
    result = invoke("fleet", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS" in result.output
