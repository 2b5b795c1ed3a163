"""What a step may cost beside the model, counted, not timed: calls do not depend on who else uses the machine."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from tests.engine_driver import make_submit
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

BFLOAT16 = {"torch_dtype": "bfloat16", "hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
MOST_OPERATORS = 24
"""Of torch, in a step of greedy decodes. Found: 16, whatever the number of layers."""
MOST_CALLS_PER_SEQUENCE = 120
"""Of Python and C functions, for every sequence more in a step. Found: 118."""


class CountedOperators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def decoding(directory: Path, *, num_layers: int, num_sequences: int) -> Engine:
    """An engine in the midst of its answers, on the native step."""
    write_tiny_checkpoint(directory, config={**BFLOAT16, "num_hidden_layers": num_layers})
    engine = Engine.load(EngineConfig(model=directory, dtype="bfloat16", num_kv_blocks=200, enable_prefix_cache=False))
    if engine._runner._decoder._native is None:
        pytest.skip(f"no native step: {engine._runner._decoder.not_native}")
    for index in range(num_sequences):
        engine.submit(make_submit(str(index), [1, 5, 9, 3], max_tokens=60))
    for _ in range(3):
        engine.step()
    return engine


def count_calls(work: Callable[[], object]) -> int:
    count = 0

    def count_one(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_one)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("num_layers", [2, 7])
def test_a_greedy_step_calls_torch_a_few_times_whatever_the_number_of_layers(tmp_path: Path, num_layers: int) -> None:
    engine = decoding(tmp_path / "model", num_layers=num_layers, num_sequences=8)
    with CountedOperators() as counted:
        engine.step()
    assert 0 < len(counted.names) <= MOST_OPERATORS, counted.names


def test_a_step_does_not_look_at_logits_that_nobody_asked_for(tmp_path: Path) -> None:
    engine = decoding(tmp_path / "model", num_layers=2, num_sequences=3)
    with CountedOperators() as counted:
        engine.step()
    assert not [name for name in counted.names if "argmax" in name or "amax" in name]


def test_the_python_of_a_step_grows_by_little_with_each_sequence(tmp_path: Path) -> None:
    few = decoding(tmp_path / "few", num_layers=2, num_sequences=4)
    many = decoding(tmp_path / "many", num_layers=2, num_sequences=36)
    growth = count_calls(many.step) - count_calls(few.step)
    assert 0 < growth <= 32 * MOST_CALLS_PER_SEQUENCE


def test_a_step_that_draws_looks_at_logits(tmp_path: Path) -> None:
    """What the guard above counts is there when it is needed."""
    engine = decoding(tmp_path / "model", num_layers=2, num_sequences=1)
    engine.submit(make_submit("drawn", [1, 5, 9], max_tokens=20, temperature=1.0))
    with CountedOperators() as counted:
        engine.step()
        engine.step()
    assert [name for name in counted.names if "amax" in name]


def test_what_the_process_holds_after_loading_is_told(tmp_path: Path) -> None:
    engine = decoding(tmp_path / "model", num_layers=2, num_sequences=1)
    assert 50 << 20 < engine.ready.resident_bytes < 64 << 30


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are told by Linux only")
def test_after_loading_nothing_of_the_file_stays_mapped(tmp_path: Path) -> None:
    """Weights are in memory once: packed. A view of one norm would keep the whole file."""
    directory = tmp_path / "model"
    engine = decoding(directory, num_layers=2, num_sequences=1)
    assert str(directory) not in Path("/proc/self/maps").read_text()
    assert engine.has_work
