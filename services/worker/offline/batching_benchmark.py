"""Static against continuous batching: throughput when more is asked than fits, latency at two rates below that.

`python -P -m services.worker.offline.batching_benchmark --check`, with `--model DIR` to measure this machine's steps,
`--run --model DIR` to compute every step of every load by that model. The scheduler is the engine's in all three;
without `--run` a step's time comes from a cost model with three measured numbers.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.config import EngineConfig, SchedulingPolicy
from services.worker.engine.events import StepStatistics
from services.worker.offline.batching_run import BatchingRun, fitted_cost
from services.worker.offline.batching_simulation import Batching, Outcome, StepCost, simulate
from services.worker.offline.chat_load import DISTRIBUTION, MEAN_OUTPUT_TOKENS, LoadRequest, chat_requests

LEAST_THROUGHPUT_RATIO = 3.2
LEAST_LATENCY_CUT = 0.73
_LIGHT_LOAD = 0.85
"""Of what padded batches can serve: nobody's queue grows, and the longest answers make the tail."""
_BUSY_LOAD = 0.5
"""Of what continuous batching can serve."""
_FULL_LOAD = 20.0
_CONTEXT_TOKENS = 2048
_BLOCK_SIZE_TOKENS = 16
_CHUNK_TOKENS = 512
_ALL_AT_ONCE = 1e9
"""Requests per second: more than any model answers."""

SMOLLM2_ON_ONE_CORE = StepCost(step_seconds=0.0164, prompt_token_seconds=0.00137, decode_token_seconds=0.00173)
"""SmolLM2-135M in bfloat16, one thread of an EPYC at 2.5 GHz: decode steps of 18.1 ms with 1 and 71.7 ms with 32
sequences, prompts at 730 tokens per second (processor time)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Full load: requests wait at all times. The same arrivals for all in every column."""

    batching: Batching
    full_load: Outcome
    busy_load: Outcome
    light_load: Outcome


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchingResult:
    """Ratios are of continuous to padded static batching; the latency's at the busy load."""

    cost: StepCost
    places: int
    busy_requests_per_second: float
    light_requests_per_second: float
    comparisons: tuple[Comparison, ...]
    throughput_ratio: float
    latency_cut: float
    problems: tuple[str, ...]


Play = Callable[[Batching, float], Outcome]
"""A load of so many requests per second through one way of batching."""


def compare_batching(cost: StepCost, *, num_requests: int = 600, places: int = 32, seed: int = 1) -> BatchingResult:
    """The scheduler on a simulated clock."""

    def play(batching: Batching, per_second: float) -> Outcome:
        load = chat_requests(num_requests, context_tokens=_CONTEXT_TOKENS, per_second=per_second, seed=seed)
        return simulate(load, batching, cost, places=places, context=_CONTEXT_TOKENS)

    return _compare(
        play, lambda: cost, full_rate=_full_rate(cost), places=places, mean_output_tokens=MEAN_OUTPUT_TOKENS
    )


def run_model(
    model: Path, *, num_requests: int = 64, places: int = 16, length_scale: float = 0.125, seed: int = 1
) -> BatchingResult:
    """Every step of every load computed by the engine. Imports torch. Raises CheckpointError, ValueError."""
    from services.worker.engine.engine import Engine

    context = max(2, round(_CONTEXT_TOKENS * length_scale))
    steps: list[StepStatistics] = []

    def load_at(per_second: float) -> list[LoadRequest]:
        return chat_requests(
            num_requests, context_tokens=context, per_second=per_second, seed=seed, length_scale=length_scale
        )

    def play(batching: Batching, per_second: float) -> Outcome:
        is_continuous = batching is Batching.CONTINUOUS
        config = EngineConfig(
            model=model,
            max_model_tokens=2 * context,  # a padded row may have the longest prompt and the longest answer
            num_kv_blocks=places * -(-2 * context // _BLOCK_SIZE_TOKENS),
            block_size_tokens=_BLOCK_SIZE_TOKENS,
            max_running_sequences=places,
            max_waiting_sequences=num_requests,
            max_tokens_per_step=_CHUNK_TOKENS if is_continuous else places * context,
            policy=SchedulingPolicy.CONTINUOUS if is_continuous else SchedulingPolicy.STATIC,
            enable_prefix_cache=False,
        )
        run = BatchingRun(engine=Engine.load(config), batching=batching, places=places)
        outcome = run.run(load_at(per_second))
        if is_continuous:
            steps.extend(run.steps)
        return outcome

    mean = fmean(request.num_output_tokens for request in load_at(_ALL_AT_ONCE))
    return _compare(play, lambda: fitted_cost(steps), full_rate=_ALL_AT_ONCE, places=places, mean_output_tokens=mean)


def _compare(
    play: Play, cost: Callable[[], StepCost], *, full_rate: float, places: int, mean_output_tokens: float
) -> BatchingResult:
    full = {batching: play(batching, full_rate) for batching in Batching}
    light = _LIGHT_LOAD * full[Batching.PADDED].output_tokens_per_second / mean_output_tokens
    busy = _BUSY_LOAD * full[Batching.CONTINUOUS].output_tokens_per_second / mean_output_tokens
    comparisons = tuple(
        Comparison(
            batching=batching,
            full_load=full[batching],
            busy_load=play(batching, busy),
            light_load=play(batching, light),
        )
        for batching in Batching
    )
    by_name = {one.batching: one for one in comparisons}
    padded, continuous = by_name[Batching.PADDED], by_name[Batching.CONTINUOUS]
    ratio = continuous.full_load.output_tokens_per_second / padded.full_load.output_tokens_per_second
    cut = 1 - continuous.busy_load.p99_latency_seconds / padded.busy_load.p99_latency_seconds
    return BatchingResult(
        cost=cost(),
        places=places,
        busy_requests_per_second=busy,
        light_requests_per_second=light,
        comparisons=comparisons,
        throughput_ratio=ratio,
        latency_cut=cut,
        problems=_problems(ratio, cut),
    )


def _full_rate(cost: StepCost) -> float:
    """Requests per second that no batching could keep up with."""
    return _FULL_LOAD / (MEAN_OUTPUT_TOKENS * cost.decode_token_seconds)


def _problems(ratio: float, cut: float) -> tuple[str, ...]:
    problems = []
    if ratio < LEAST_THROUGHPUT_RATIO:
        problems.append(f"throughput: {ratio:.2f} times padded batches, goal {LEAST_THROUGHPUT_RATIO}")
    if cut < LEAST_LATENCY_CUT:
        problems.append(f"p99 latency: {cut:.0%} lower, goal {LEAST_LATENCY_CUT:.0%}")
    return tuple(problems)


def measure_cost(model: Path) -> StepCost:
    """From the engine itself, alone and with 32 sequences. Imports torch. Raises CheckpointError, ValueError."""
    from services.worker.offline.engine_benchmark import run_benchmark

    measured = run_benchmark(model, batch_sizes=[1, 32], prompt_tokens=128, output_tokens=64)
    alone, many = measured.batches
    per_token = (many.decode_step_seconds - alone.decode_step_seconds) / (many.batch_size - 1)
    return StepCost(
        step_seconds=max(alone.decode_step_seconds - per_token, 0.0),
        prompt_token_seconds=1 / many.prompt_tokens_per_second,
        decode_token_seconds=per_token,
    )


def result_table(result: BatchingResult, *, subject: str = "The engine's scheduler, time modelled") -> Table:
    cost = result.cost
    table = Table(
        title=f"{subject}, {result.places} places; a step costs {1e3 * cost.step_seconds:.1f} ms,"
        f" {1e3 * cost.prompt_token_seconds:.2f} ms a prompt token, {1e3 * cost.decode_token_seconds:.2f} ms a decode",
        caption=f"Poisson arrivals; {DISTRIBUTION}. p99 latency, busy: {result.busy_requests_per_second:.2f}"
        f" requests/s, light: {result.light_requests_per_second:.2f}.",
    )
    table.add_column("batching")
    for column in ("output tok/s", "utilisation", "padding", "p99 busy s", "p99 light s"):
        table.add_column(column, justify="right")
    for one in result.comparisons:
        table.add_row(
            one.batching.value,
            f"{one.full_load.output_tokens_per_second:,.1f}",
            f"{one.full_load.utilisation:.1%}",
            f"{one.full_load.padding:.1%}",
            f"{one.busy_load.p99_latency_seconds:,.1f}",
            f"{one.light_load.p99_latency_seconds:,.1f}",
        )
    table.add_section()
    table.add_row("ratio", f"{result.throughput_ratio:.2f} x", "", "", f"{-result.latency_cut:.0%}", "")
    return table


def result_json(result: BatchingResult) -> str:
    return json.dumps(dataclasses.asdict(result), indent=2)


def _command(
    model: Annotated[Path | None, typer.Option(help="Measure the steps of this checkpoint here, now.")] = None,
    run: Annotated[bool, typer.Option("--run", help="Compute every step by the model.")] = False,
    length_scale: Annotated[float, typer.Option(min=0.01, max=1, help="With --run: of all lengths.")] = 0.125,
    requests: Annotated[int | None, typer.Option(min=8, help="Requests of each load: 600, with --run 64.")] = None,
    places: Annotated[int | None, typer.Option(min=1, help="Sequences of a batch: 32, with --run 16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 and name the goals that are missed.")] = False,
) -> None:
    """Compare static with continuous batching."""
    errors = Console(stderr=True)
    try:
        if run and model is None:
            raise ValueError("--run needs --model DIR")
        if run and model is not None:
            result = run_model(model, num_requests=requests or 64, places=places or 16, length_scale=length_scale)
        else:
            cost = SMOLLM2_ON_ONE_CORE if model is None else measure_cost(model)
            result = compare_batching(cost, num_requests=requests or 600, places=places or 32)
    except (ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    subject = f"{model.name}, every step computed, lengths x {length_scale}" if run and model else None
    if as_json:
        sys.stdout.write(result_json(result) + "\n")
    else:
        Console().print(result_table(result) if subject is None else result_table(result, subject=subject))
    if check:
        for problem in result.problems:
            errors.print(f"missed: {problem}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if result.problems else 0)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
