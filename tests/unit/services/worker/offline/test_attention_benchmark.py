"""The attention benchmark: every backend has its rows, those that cannot run say why, shares follow from the work."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from services.worker.engine.attention.attention_backend import AttentionBackend
from services.worker.engine.attention.backend_selection import BACKENDS
from services.worker.engine.attention.gather_attention import GatherAttention
from services.worker.engine.attention.reference_attention import ReferenceAttention
from services.worker.engine.attention.sdpa_attention import SdpaAttention
from services.worker.offline import attention_benchmark
from services.worker.offline.attention_benchmark import AttentionResult, measure_attention, parse_lengths
from services.worker.offline.attention_shapes import AttentionShape, AttentionStep
from services.worker.offline.machine_limits import best_seconds, clock_for
from services.worker.offline.peak_memory import peak_extra_bytes

CPU = torch.device("cpu")
SMALL = AttentionShape(num_query_heads=2, num_kv_heads=1, head_size=8, batch_size=3)


@pytest.fixture(scope="module")
def measured() -> AttentionResult:
    return measure_attention(
        SMALL,
        lengths=[20, 40],
        backends=["flash-attn-1", "flash-attn-3", "sdpa", "reference"],
        device=CPU,
        dtype=torch.float32,
        repeats=1,
        longest_reference=20,
    )


def test_every_backend_that_runs_has_a_row_for_each_step_and_length(measured: AttentionResult) -> None:
    found = [(row.step, row.length, row.backend, row.milliseconds is not None) for row in measured.rows[:-2]]
    assert found == [
        (step, length, backend, length == 20 or backend == "sdpa")
        for step in ("prefill", "decode")
        for length in (20, 40)
        for backend in ("sdpa", "reference")
    ]


def test_what_cannot_run_is_a_row_that_says_why(measured: AttentionResult) -> None:
    refused = {row.backend: row.problem for row in measured.rows if row.step == "both"}
    assert "no block tables" in refused["flash-attn-1"]
    assert "needs CUDA, not cpu" in refused["flash-attn-3"]
    left_out = [row for row in measured.rows if row.problem and row.step != "both"]
    assert {(row.backend, row.length) for row in left_out} == {("reference", 40)}


def test_shares_are_work_over_time_over_the_limit(measured: AttentionResult) -> None:
    for row in measured.rows:
        if row.milliseconds is None:
            assert row.share is None
            continue
        assert row.length is not None
        if row.step == "prefill":
            expected = SMALL.prefill_operations(row.length) / measured.limits.multiply_per_second
        else:
            expected = SMALL.decode_bytes(row.length, torch.float32) / measured.limits.read_bytes_per_second
        assert row.share == pytest.approx(1e3 * expected / row.milliseconds)


def test_the_work_is_half_a_square_and_every_key_and_value_once() -> None:
    assert SMALL.prefill_operations(3) == 4 * 2 * 8 * (1 + 2 + 3)
    assert SMALL.decode_bytes(10, torch.bfloat16) == 3 * 10 * 2 * 1 * 8 * 2


@pytest.mark.parametrize("is_prefill", [True, False])
@pytest.mark.parametrize("backend", [GatherAttention(), SdpaAttention()], ids=lambda one: one.name)
def test_backends_do_the_same_work(is_prefill: bool, backend: AttentionBackend) -> None:
    step = AttentionStep(SMALL, length=37, is_prefill=is_prefill, device=CPU, dtype=torch.float32)
    found, expected = step.attend(backend), step.attend(ReferenceAttention())
    assert found.shape == ((37 if is_prefill else 3), 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_shortest_run_counts_behind_one_that_does_not() -> None:
    times = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])
    calls: list[int] = []
    assert best_seconds(lambda: calls.append(1), CPU, repeats=3, clock=lambda: next(times)) == 2.0
    assert len(calls) == 4


def test_one_thread_is_measured_by_its_processor_time() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert clock_for(CPU).__name__ == "thread_time"
        torch.set_num_threads(2)
        assert clock_for(CPU).__name__ == "perf_counter"
    finally:
        torch.set_num_threads(before)


def test_memory_on_top_is_seen() -> None:
    megabytes = 64
    found = peak_extra_bytes(lambda: torch.ones(megabytes << 18).sum(), CPU)
    assert found is not None
    assert megabytes << 19 < found < megabytes << 22


def test_memory_that_was_free_before_is_seen_too() -> None:
    megabytes = 64
    kept = [bytearray(16 << 10) for _ in range(megabytes << 7)]
    last = bytearray(16 << 10)  # keeps the heap's end in use
    del kept
    found = peak_extra_bytes(lambda: [bytearray(16 << 10) for _ in range(megabytes << 6)], CPU)
    assert found is not None
    assert found > megabytes << 19
    assert last


def test_the_command_prints_every_backend_and_refuses_nonsense() -> None:
    application = typer.Typer()
    application.command()(attention_benchmark._command)
    runner = CliRunner()
    options = ["--lengths", "8", "--query-heads", "2", "--kv-heads", "1", "--head-size", "8", "--repeats", "1"]
    printed = json.loads(runner.invoke(application, [*options, "--device", "cpu", "--json"]).stdout)
    assert {row["backend"] for row in printed["rows"]} == {"flash-attn-1", *BACKENDS}
    tables = runner.invoke(application, [*options, "--device", "cpu", "--backend", "gather,flash-attn-2"]).stdout
    assert "cannot run here" in tables
    assert "needs CUDA" in tables
    for wrong in (["--lengths", "x"], ["--backend", "magic"], ["--query-heads", "3", "--kv-heads", "2"]):
        refused = runner.invoke(application, wrong)
        assert refused.exit_code == 2


@pytest.mark.parametrize("text", ["", "1", "0,5", "a,b"])
def test_lengths_are_whole_numbers_above_one(text: str) -> None:
    with pytest.raises(ValueError, match="--lengths must be"):
        parse_lengths(text)
