"""Every kernel becomes machine code for real cards, on any machine: what the interpreter lets pass may not compile."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[6]
KERNELS = {
    "_attend_split",
    "_attend_split_of_cells",
    "_attend_tile",
    "_combine_splits",
    "_multiply_codes",
    "_multiply_gate",
    "_normalise_row",
    "_rotate_head",
    "_round_span",
    "_write_cell",
}
SHARED_BYTES_OF_A_SMALL_CARD = 100 << 10


def compile_kernels(cache: Path, *arguments: str) -> list[tuple[str, int, int]]:
    """(kernel, bytes of machine code, bytes of shared memory)."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "tests.fixtures.triton_compilation", *arguments]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    found = re.findall(r"(_\w+) +(\d+) bytes of machine code, +(\d+) bytes shared", printed)
    return [(kernel, int(code), int(shared)) for kernel, code, shared in found]


@pytest.mark.parametrize(
    ("num_shapes", "capabilities"),
    [
        pytest.param(1, ["80"], marks=pytest.mark.timeout(600)),
        pytest.param(3, ["80", "90", "100"], marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_every_kernel_compiles_and_fits_the_shared_memory(
    tmp_path: Path, num_shapes: int, capabilities: list[str]
) -> None:
    found = compile_kernels(tmp_path, str(num_shapes), *capabilities)
    assert len(found) == 19 * num_shapes * len(capabilities)
    assert {kernel for kernel, _, _ in found} == KERNELS
    assert all(code > 1000 and shared <= SHARED_BYTES_OF_A_SMALL_CARD for _, code, shared in found)
