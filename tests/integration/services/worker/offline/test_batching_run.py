"""The batching benchmark over a real model: what is counted is certain, what is timed is only there."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from services.worker.engine.config import EngineConfig, SchedulingPolicy
from services.worker.engine.engine import Engine
from services.worker.engine.events import StepStatistics
from services.worker.offline import batching_benchmark
from services.worker.offline.batching_benchmark import BatchingResult, run_model
from services.worker.offline.batching_run import BatchingRun, fitted_cost
from services.worker.offline.batching_simulation import Batching, Outcome
from services.worker.offline.chat_load import LoadRequest
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint

PLACES = 2
LENGTHS = [(4, 2), (10, 5), (3, 8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_checkpoint(directory, config={"vocab_size": 272})
    return directory


def played(model: Path, batching: Batching, *, seconds_between: float = 0.0) -> tuple[Outcome, list[StepStatistics]]:
    is_continuous = batching is Batching.CONTINUOUS
    config = EngineConfig(
        model=model,
        num_kv_blocks=16,
        max_running_sequences=PLACES,
        policy=SchedulingPolicy.CONTINUOUS if is_continuous else SchedulingPolicy.STATIC,
        enable_prefix_cache=False,
    )
    run = BatchingRun(engine=Engine.load(config), batching=batching, places=PLACES)
    load = [
        LoadRequest(num_prompt_tokens=prompt, num_output_tokens=output, arrival_seconds=index * seconds_between)
        for index, (prompt, output) in enumerate(LENGTHS)
    ]
    return run.run(load), run.steps


def test_a_padded_batch_computes_cells_and_rows_for_nobody(model: Path) -> None:
    """Two rows of 10 + 5 for 4 + 2 and 10 + 5, then one of 3 + 8; a row's last token is drawn, not computed."""
    outcome, steps = played(model, Batching.PADDED)
    assert sum(step.num_prefill_tokens for step in steps) == 2 * 10 + 3
    assert sum(step.num_decode_tokens for step in steps) == 2 * 4 + 7
    assert outcome.padding == pytest.approx((6 + 3) / (23 + 15))
    assert len(steps) == 5 + 8


@pytest.mark.parametrize(("batching", "num_steps"), [(Batching.STATIC, 5 + 8), (Batching.CONTINUOUS, 2 + 8)])
def test_without_padding_only_what_was_asked_is_computed(model: Path, batching: Batching, num_steps: int) -> None:
    """The third joins after the first's two tokens, or waits for the second's five."""
    outcome, steps = played(model, batching)
    assert outcome.padding == 0
    assert sum(step.num_prefill_tokens + step.num_decode_tokens for step in steps) == 17 + 1 + 4 + 7
    assert len(steps) == num_steps
    assert outcome.output_tokens_per_second > 0


def test_the_clock_jumps_to_who_has_not_arrived_and_latency_counts_from_there(model: Path) -> None:
    outcome, _ = played(model, Batching.CONTINUOUS, seconds_between=1000.0)
    assert outcome.output_tokens_per_second < 15 / 2000
    assert outcome.p99_latency_seconds < 1000
    assert outcome.utilisation < 0.5


def test_a_load_that_the_engine_refuses_is_an_error(model: Path) -> None:
    engine = Engine.load(EngineConfig(model=model, num_kv_blocks=1, max_running_sequences=PLACES))
    run = BatchingRun(engine=engine, batching=Batching.CONTINUOUS, places=PLACES)
    with pytest.raises(ValueError, match="refuses"):
        run.run([LoadRequest(num_prompt_tokens=40, num_output_tokens=5)])


def test_the_cost_of_steps_is_found_from_them() -> None:
    def step(prefill: int, decode: int) -> StepStatistics:
        return StepStatistics(
            step=1, duration_seconds=0.5 + 0.01 * prefill + 0.1 * decode, num_running=1, num_waiting=0,
            num_prefill_tokens=prefill, num_decode_tokens=decode, blocks_total=1, blocks_used=1, blocks_cached=0,
            num_preemptions_total=0, outstanding_tokens=0,
        )  # fmt: skip

    cost = fitted_cost([step(0, 1), step(10, 3), step(7, 0), step(2, 8)])
    assert (cost.step_seconds, cost.prompt_token_seconds, cost.decode_token_seconds) == pytest.approx((0.5, 0.01, 0.1))


@pytest.fixture(scope="module")
def result(model: Path) -> BatchingResult:
    return run_model(model, num_requests=8, places=2, length_scale=0.02)


def test_the_comparison_is_complete(result: BatchingResult) -> None:
    by_name = {one.batching: one for one in result.comparisons}
    assert set(by_name) == set(Batching)
    assert by_name[Batching.PADDED].full_load.padding > 0 == by_name[Batching.CONTINUOUS].full_load.padding
    assert result.cost.decode_token_seconds + result.cost.step_seconds > 0
    assert result.throughput_ratio > 0


def test_the_command_says_that_every_step_was_computed(
    monkeypatch: pytest.MonkeyPatch, model: Path, result: BatchingResult
) -> None:
    application = typer.Typer()
    application.command()(batching_benchmark._command)
    monkeypatch.setattr(batching_benchmark, "run_model", lambda model, **sizes: result)
    printed = CliRunner().invoke(application, ["--run", "--model", str(model), "--json"])
    assert json.loads(printed.stdout)["places"] == 2
    table = CliRunner().invoke(application, ["--run", "--model", str(model)]).stdout
    assert "every step computed" in " ".join(table.split())
    refused = CliRunner().invoke(application, ["--run"])
    assert (refused.exit_code, refused.stderr) == (2, "--run needs --model DIR\n")
