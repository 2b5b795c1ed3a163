"""The doctor's findings: good news, bad news, and advice with every bad one."""

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.cli.commands import doctor as doctor_module
from services.cli.commands.doctor import CHECKS, Finding, Verdict, check_packages, check_ports
from services.cli.stack_state import StackState


def test_every_check_finds_something_and_every_problem_comes_with_advice() -> None:
    for check in CHECKS:
        findings = list(check())
        assert findings or check.__name__ == "check_java"
        assert all(finding.advice for finding in findings if finding.verdict is not Verdict.GOOD)


def test_a_missing_package_is_bad_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "WORKER_MODULES", ("torch", "no_such_package"))
    finding = next(finding for finding in check_packages() if finding.subject == "worker packages")
    assert finding.verdict is Verdict.BAD
    assert finding.detail == "missing: no_such_package"
    assert "[worker]" in finding.advice


def test_a_taken_port_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("PENSTOCK_UP_HTTP_PORT", str(listener.getsockname()[1]))
        finding = next(check_ports())
    assert finding.verdict is Verdict.WARNING
    assert finding.detail == "taken"


def test_a_port_of_the_stack_that_runs_here_is_no_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setenv("PENSTOCK_UP_KAFKA_PORT", str(port))
        monkeypatch.setenv("PENSTOCK_UP_DATA_DIR", str(tmp_path))
        StackState(
            pid=os.getpid(),
            http_url="http://127.0.0.1:1",
            supervisor_url="http://127.0.0.1:2",
            kafka=f"127.0.0.1:{port}",
            redis="redis://127.0.0.1:3/0",
            span_database="",
            pool="default",
        ).write(tmp_path)
        finding = next(finding for finding in check_ports() if "Kafka" in finding.subject)
    assert finding.verdict is Verdict.GOOD
    assert finding.detail == "of the stack that runs here"


def test_the_command_fails_when_something_needed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Finding(subject="Python", verdict=Verdict.BAD, detail="3.9.0", advice="install a later one")
    monkeypatch.setattr(doctor_module, "CHECKS", (lambda: iter([bad]),))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "install a later one" in result.output


def test_the_command_passes_in_this_environment() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "Python" in result.output
