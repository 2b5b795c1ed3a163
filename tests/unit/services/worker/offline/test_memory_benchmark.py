"""What the memory benchmark counts, on a small memory, and what its command says."""

import json

import pytest
import typer
from typer.testing import CliRunner

from services.worker.offline import memory_benchmark
from services.worker.offline.memory_benchmark import (
    ContextRow,
    MemoryResult,
    MemoryUse,
    _Driven,
    _result,
    measure_memory,
    result_json,
)


@pytest.fixture(scope="module")
def measured() -> MemoryResult:
    return measure_memory(contexts=(256, 1024), budget_sequences=6, steps=60, bytes_per_token=10)


def test_the_same_memory_is_measured_at_every_context(measured: MemoryResult) -> None:
    assert measured.budget_bytes == 6 * 1024 * 10
    assert [row.contiguous.sequences for row in measured.rows] == [24, 6]
    assert [row.contiguous.held_bytes for row in measured.rows] == [measured.budget_bytes] * 2


def test_paging_wastes_less_than_a_block_a_sequence_and_fits_more(measured: MemoryResult) -> None:
    for row in measured.rows:
        assert 0 < row.paged.wasted_bytes < row.paged.sequences * 16 * 10
        assert row.paged.waste < row.contiguous.waste
        assert row.paged.held_bytes <= measured.budget_bytes
        assert row.paged.sequences > row.contiguous.sequences


def test_shared_prefixes_fit_more_sequences_into_the_same_memory(measured: MemoryResult) -> None:
    assert all(row.shared.sequences > row.paged.sequences for row in measured.rows)
    assert all(row.shared.held_bytes <= measured.budget_bytes for row in measured.rows)


def test_larger_blocks_waste_more() -> None:
    def waste(block_size_tokens: int) -> float:
        sizes = {"contexts": (512,), "budget_sequences": 8, "steps": 60}
        return measure_memory(block_size_tokens=block_size_tokens, **sizes).paged_waste  # type: ignore[arg-type]

    assert waste(4) < waste(16) < waste(64)


def test_a_block_that_several_hold_is_counted_once() -> None:
    driven = _Driven(512, 400, 16, is_shared=True)
    for _ in range(20):
        driven._step()
    sequences, held, wasted, tokens = driven._look()
    pool = driven._cache.pool
    assert held == pool.num_used * 16
    assert tokens > held - wasted, "sequences see more tokens than there are: they share"
    assert sequences == len(driven._scheduler.running)


def use(sequences: float, wasted: float) -> MemoryUse:
    return MemoryUse(sequences=sequences, held_bytes=1000, wasted_bytes=wasted)


def test_missed_goals_are_named() -> None:
    good = ContextRow(context_tokens=512, contiguous=use(10, 500), paged=use(40, 19), shared=use(50, 19))
    assert _result((good,), 1000, 16).problems == ()
    bad = ContextRow(context_tokens=1024, contiguous=use(10, 500), paged=use(39, 41), shared=use(50, 19))
    assert _result((good, bad), 1000, 16).problems == (
        "waste at 1024 tokens: 4.1%, goal below 4%",
        "waste over all contexts: 3.00%, goal below 2%",
        "sequences at 1024 tokens: 3.9 times contiguous, goal 4",
    )


def command_line(*arguments: str):  # type: ignore[no-untyped-def]
    application = typer.Typer()
    application.command()(memory_benchmark._command)
    return CliRunner().invoke(application, list(arguments))


def test_the_command_prints_json_and_a_table(monkeypatch: pytest.MonkeyPatch, measured: MemoryResult) -> None:
    monkeypatch.setattr(memory_benchmark, "measure_memory", lambda **sizes: measured)
    assert json.loads(command_line("--json").stdout) == json.loads(result_json(measured))
    assert "paged, shared" in command_line().stdout


def test_the_check_exits_with_1_and_names_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ContextRow(context_tokens=512, contiguous=use(10, 500), paged=use(40, 25), shared=use(50, 19))
    monkeypatch.setattr(memory_benchmark, "measure_memory", lambda **sizes: _result((bad,), 1000, 16))
    finished = command_line("--check")
    assert finished.exit_code == 1
    assert "missed: waste over all contexts: 2.50%, goal below 2%" in finished.stderr
    assert command_line().exit_code == 0
