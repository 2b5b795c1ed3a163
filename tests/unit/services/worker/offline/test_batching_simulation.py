"""The simulated clock on loads that can be counted by hand; and the comparison's goals."""

import dataclasses
import json

import pytest
import typer
from typer.testing import CliRunner

from services.worker.offline import batching_benchmark
from services.worker.offline.batching_benchmark import BatchingResult, _problems, compare_batching
from services.worker.offline.batching_simulation import Batching, Outcome, StepCost, simulate
from services.worker.offline.chat_load import LoadRequest

ONE_SECOND_A_STEP = StepCost(step_seconds=1, prompt_token_seconds=0, decode_token_seconds=0)
ONE_SECOND_A_TOKEN = StepCost(step_seconds=0, prompt_token_seconds=1, decode_token_seconds=1)


def request(prompt: int, output: int, arrival: float = 0.0) -> LoadRequest:
    return LoadRequest(num_prompt_tokens=prompt, num_output_tokens=output, arrival_seconds=arrival)


def play(batching: Batching, cost: StepCost, *requests: LoadRequest, places: int = 2) -> Outcome:
    return simulate(list(requests), batching, cost, places=places, context=64)


def test_in_a_static_batch_the_third_waits_for_the_longest_of_the_first_two() -> None:
    load = [request(4, 2), request(4, 10), request(4, 2)]
    static = play(Batching.STATIC, ONE_SECOND_A_STEP, *load)
    assert static.p99_latency_seconds == 12
    assert static.mean_latency_seconds == pytest.approx((2 + 10 + 12) / 3)
    continuous = play(Batching.CONTINUOUS, ONE_SECOND_A_STEP, *load)
    assert continuous.mean_latency_seconds == pytest.approx((2 + 10 + 4) / 3)
    assert continuous.output_tokens_per_second == pytest.approx(14 / 10)


def test_a_padded_batch_computes_the_longest_prompt_and_the_longest_answer_for_everybody() -> None:
    load = [request(4, 2), request(10, 5)]
    padded = play(Batching.PADDED, ONE_SECOND_A_TOKEN, *load)
    assert padded.p99_latency_seconds == padded.mean_latency_seconds == 2 * 10 + 2 * 4
    assert padded.padding == pytest.approx((6 + 3) / 28)
    static = play(Batching.STATIC, ONE_SECOND_A_TOKEN, *load)
    assert static.padding == 0
    assert static.p99_latency_seconds == 14 + 5


def test_places_are_used_as_long_as_somebody_wants_tokens() -> None:
    load = [request(4, 2), request(4, 10)]
    assert play(Batching.PADDED, ONE_SECOND_A_STEP, *load).utilisation == pytest.approx((2 + 10) / 20)
    assert play(Batching.CONTINUOUS, ONE_SECOND_A_STEP, *load, places=4).utilisation == pytest.approx(12 / 40)


def test_the_clock_waits_for_who_has_not_arrived() -> None:
    late = play(Batching.CONTINUOUS, ONE_SECOND_A_STEP, request(4, 2), request(4, 2, arrival=100))
    assert late.p99_latency_seconds == 2
    assert late.output_tokens_per_second == pytest.approx(4 / 102)


@pytest.mark.parametrize("batching", Batching)
def test_who_comes_while_a_batch_runs_is_answered_too(batching: Batching) -> None:
    load = [request(4, 5), request(4, 5, arrival=2.5), request(4, 5, arrival=3)]
    outcome = play(batching, ONE_SECOND_A_STEP, *load)
    assert outcome.mean_latency_seconds >= 5
    assert outcome.output_tokens_per_second <= 15 / 8


@pytest.fixture(scope="module")
def compared() -> BatchingResult:
    cost = StepCost(step_seconds=0.02, prompt_token_seconds=0.001, decode_token_seconds=0.001)
    return compare_batching(cost, num_requests=100, places=8)


def test_continuous_beats_static_beats_padded(compared: BatchingResult) -> None:
    by_name = {one.batching: one for one in compared.comparisons}
    rates = [by_name[name].full_load.output_tokens_per_second for name in Batching]
    assert rates == sorted(rates)
    assert compared.throughput_ratio == pytest.approx(rates[2] / rates[0])
    padded, continuous = by_name[Batching.PADDED].busy_load, by_name[Batching.CONTINUOUS].busy_load
    assert compared.latency_cut == pytest.approx(1 - continuous.p99_latency_seconds / padded.p99_latency_seconds)
    assert by_name[Batching.CONTINUOUS].full_load.padding == 0
    assert by_name[Batching.PADDED].full_load.padding > 0.3


def test_missed_goals_are_named() -> None:
    assert _problems(3.2, 0.73) == ()
    assert _problems(3.1, 0.5) == (
        "throughput: 3.10 times padded batches, goal 3.2",
        "p99 latency: 50% lower, goal 73%",
    )


def command_line(*arguments: str):  # type: ignore[no-untyped-def]
    application = typer.Typer()
    application.command()(batching_benchmark._command)
    return CliRunner().invoke(application, list(arguments))


def test_the_command_prints_and_checks(monkeypatch: pytest.MonkeyPatch, compared: BatchingResult) -> None:
    monkeypatch.setattr(batching_benchmark, "compare_batching", lambda cost, **sizes: compared)
    printed = json.loads(command_line("--json").stdout)
    assert printed["throughput_ratio"] == compared.throughput_ratio
    assert "continuous" in command_line().stdout
    missed = dataclasses.replace(compared, problems=("throughput: low",))
    monkeypatch.setattr(batching_benchmark, "compare_batching", lambda cost, **sizes: missed)
    finished = command_line("--check")
    assert (finished.exit_code, finished.stderr) == (1, "missed: throughput: low\n")
    assert command_line().exit_code == 0


def test_a_model_that_is_not_there_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    finished = command_line("--model", str(tmp_path))
    assert finished.exit_code == 2
    assert "config.json" in finished.stderr
