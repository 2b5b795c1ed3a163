"""Quantized weights and cache through the platform: made once, served, and said."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from services.cli.stack_state import running_stack
from tests.fixtures.stack import READY_SECONDS, TINY

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

PENSTOCK = [sys.executable, "-P", "-m", "services.cli"]


def test_up_quantizes_serves_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    data_dir, log = tmp_path / "data", tmp_path / "up.log"
    ports = [item for name in ("http", "supervisor", "kafka", "redis") for item in (f"--{name}-port", "0")]
    options = ["--model", str(tiny_model), "--dtype", "bfloat16", "--quantization", "awq-int4", "--kv-cache", "int8"]
    command = [*PENSTOCK, "up", *options, "--data-dir", str(data_dir), *ports]
    with log.open("w") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 2 * READY_SECONDS
        while "Penstock is up" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        state = running_stack(data_dir)
        assert state is not None
        body = {"model": TINY, "prompt": "Where does the water go?", "max_tokens": 12, "ignore_eos": True}
        answer = httpx.post(f"{state.http_url}/v1/completions", json=body, timeout=60).json()
        assert answer["usage"]["completion_tokens"] == 12
        (model,) = httpx.get(f"{state.http_url}/v1/models", timeout=10).json()["data"]
        assert model["served_as"] == [
            {"dtype": "bfloat16", "weights": "int4-g64-asym", "kv_cache": "int8", "workers": 1}
        ]
        shown = subprocess.run(
            [*PENSTOCK, "fleet", "--json", "--data-dir", str(data_dir)], capture_output=True, text=True, check=True
        )
        (worker,) = json.loads(shown.stdout)["workers"]
        assert (worker["weights"], worker["kv_cache"]) == ("int4-g64-asym", "int8")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
