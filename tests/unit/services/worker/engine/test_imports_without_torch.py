"""Scheduling and block accounting run where torch cannot even be imported."""

import subprocess
import sys

import pytest

MODULES = [
    "services.worker.engine.scheduling.scheduler",
    "services.worker.engine.kv_cache.paged_cache",
    "services.worker.engine.batch",
    "services.worker.engine.sequence",
    "services.worker.engine.request_intake",
    "services.worker.engine.step_report",
]
BLOCKED = "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None; import {module}"


@pytest.mark.parametrize("module", MODULES)
def test_it_imports_with_torch_blocked(module: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(module=module)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_block_is_real() -> None:
    command = BLOCKED.format(module="services.worker.engine.engine")
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode != 0
