"""Runs one batch through an engine and takes its times. Knows no model and prints nothing."""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.worker.engine.events import ChoiceStart, StepResult, StepStatistics, Submit
from services.worker.offline.batch_run import BatchEngine
from shared.contracts.sampling import SamplingParameters

_LOWEST_TOKEN_ID = 100
"""Control tokens usually have the lowest ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """Rates of one batch size, medians over the repeats.

    `output_tokens_per_second`: all output tokens over the whole run, prompts included. `prompt_tokens_per_second`:
    prompt tokens over the steps that computed prompts. `decode_tokens_per_second`: tokens over the steps that
    computed no prompt. `first_output` are the tokens that answer the prompt that all batch sizes share.
    """

    batch_size: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    decode_step_seconds: float
    num_generated_tokens: int
    first_output: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    seconds: float
    steps: list[StepStatistics]
    num_generated_tokens: int
    first_output: tuple[int, ...]


def measure_batch(
    engine: BatchEngine,
    batch_size: int,
    *,
    prompt_tokens: int,
    output_tokens: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    watch: Callable[[StepResult], None] | None = None,
) -> BatchResult:
    """Raises ValueError when the engine refuses the batch: too long a prompt, too many at once.

    `watch` is shown every step's result.
    """
    runs = [
        _run_once(engine, batch_size, prompt_tokens, output_tokens, repeat, clock, watch) for repeat in range(repeats)
    ]
    prompts = [_rate(run, prefill=True) for run in runs]
    decodes = [_rate(run, prefill=False) for run in runs]
    decode_rate = statistics.median(decodes)
    return BatchResult(
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_per_second=statistics.median(run.num_generated_tokens / run.seconds for run in runs),
        prompt_tokens_per_second=statistics.median(prompts),
        decode_tokens_per_second=decode_rate,
        decode_step_seconds=batch_size / decode_rate if decode_rate else 0.0,
        num_generated_tokens=runs[0].num_generated_tokens,
        first_output=runs[0].first_output,
    )


def _rate(run: _Run, *, prefill: bool) -> float:
    """Of the steps of one kind; a step that computes any prompt counts as prefill."""
    steps = [step for step in run.steps if (step.num_prefill_tokens > 0) is prefill]
    tokens = sum(step.num_prefill_tokens if prefill else step.num_decode_tokens for step in steps)
    seconds = sum(step.duration_seconds for step in steps)
    return tokens / seconds if seconds else 0.0


def _run_once(
    engine: BatchEngine,
    batch_size: int,
    prompt_tokens: int,
    output_tokens: int,
    repeat: int,
    clock: Callable[[], float],
    watch: Callable[[StepResult], None] | None,
) -> _Run:
    submissions = [
        _submission(index, repeat, prompt_tokens, output_tokens, engine.ready.vocabulary_size)
        for index in range(batch_size)
    ]
    outputs: dict[str, list[int]] = {submission.request_id: [] for submission in submissions}
    steps = []
    started = clock()
    for submission in submissions:
        engine.submit(submission)
    while engine.has_work:
        result = engine.step()
        steps.append(result.statistics)
        if watch is not None:
            watch(result)
        for event in result.tokens:
            outputs[event.request_id].extend(event.token_ids)
        for rejected in result.rejected:
            raise ValueError(f"the engine refuses the benchmark's request: {rejected.message}")
    return _Run(
        seconds=clock() - started,
        steps=steps,
        num_generated_tokens=sum(map(len, outputs.values())),
        first_output=tuple(outputs[submissions[0].request_id]),
    )


def _submission(index: int, repeat: int, prompt_tokens: int, output_tokens: int, vocabulary_size: int) -> Submit:
    """Prompt `index` of repeat `repeat` is the same in every batch size and every process."""
    draw = random.Random(f"{index}:{repeat}")
    lowest = min(_LOWEST_TOKEN_ID, vocabulary_size - 1)
    prompt = [draw.randrange(lowest, vocabulary_size) for _ in range(prompt_tokens)]
    return Submit(
        request_id=f"benchmark-{index}",
        choices=[ChoiceStart(index=0, prompt_token_ids=prompt)],
        sampling=SamplingParameters(temperature=0.0, max_tokens=output_tokens, ignore_eos=True),
        eos_token_ids=[],
        order=(0, 0, 0, index),
    )
