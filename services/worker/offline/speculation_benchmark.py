"""What drafts bring: acceptance, tokens per target step, speed-up over none, by method, length, temperature and task.

`python -P -m services.worker.offline.speculation_benchmark --model DIR`. With and without drafts in turn on one engine;
the tokens of both are compared.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.config import EngineConfig, Verifier
from services.worker.engine.engine import Engine
from services.worker.offline.speculation_plan import Setting, crossed, everything, one_at_a_time, quick
from services.worker.offline.speculation_run import (
    Run,
    answer,
    equal_share,
    expected_tokens,
    predicted_speed_up,
    together,
)
from services.worker.offline.speculation_tasks import LONG_TOKENS, TASKS, is_long, task_prompts
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError

_METHODS = "quantspec,int8-self,prompt-lookup,lookahead"
_NONE = "none"
_BLOCK_TOKENS = 16

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    model: Path
    methods: tuple[str, ...]
    settings: tuple[Setting, ...]
    verifiers: tuple[str, ...]
    kv_cache: str
    output_tokens: int
    answers: int
    """Of a row, and two for each sequence of its batch at least."""
    num_threads: int | None
    draft_model: Path | None = None
    context_tokens: int = LONG_TOKENS
    repeats: int = 1
    is_adaptive: bool = False
    """Lengths as a pool chooses them, up to those of the settings."""
    counts_processor_time: bool = False
    """On a machine that others use: of one thread, which waits for nobody."""

    @property
    def clock(self) -> Callable[[], float]:
        return time.process_time if self.counts_processor_time else time.perf_counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`length` 0 is the baseline. Rates are of decode steps; the draft's and the step's times are of one step.

    What the cost model says is None where lengths are adaptive: it knows one length.
    """

    method: str
    length: int
    verifier: str
    temperature: float
    task: str
    batch: int
    acceptance: float
    tokens_per_target_step: float
    expected_tokens_per_step: float | None
    tokens_per_second: float
    speed_up: float
    predicted_speed_up: float | None
    draft_ms: float
    verify_ms: float
    equal_share: float


def run_benchmark(plan: Plan, report: Report) -> list[Row]:
    """Raises CheckpointError, TokenizerError, ValueError."""
    tokenizer = Tokenizer.from_directory(plan.model)
    rows: list[Row] = []
    for method in plan.methods:
        for verifier in plan.verifiers:
            for length in dict.fromkeys(setting.length for setting in plan.settings):
                report(f"{method}, {length} tokens, {verifier}")
                settings = [setting for setting in plan.settings if setting.length == length]
                known = {(row.temperature, row.task, row.batch) for row in rows}
                rows += _rows_of(plan, tokenizer, method, verifier, settings, known, report)
                gc.collect()
    return rows


def _rows_of(
    plan: Plan,
    tokenizer: Tokenizer,
    method: str,
    verifier: str,
    settings: list[Setting],
    known: set[tuple[float, str, int]],
    report: Report,
) -> list[Row]:
    """Settings of one draft length, by one engine. `known`: what has its row without drafts."""
    length = settings[0].length
    engine = _load(plan, method, verifier, length)
    rows = []
    for setting in settings:
        number = max(plan.answers, 2 * setting.batch if setting.batch > 1 else 1)
        prompts = task_prompts(setting.task, tokenizer, number, context_tokens=plan.context_tokens)
        ends = sorted(tokenizer.eos_token_ids)
        without, run = _both(engine, prompts, ends, plan, setting, method)
        place = {
            "verifier": verifier,
            "temperature": setting.temperature,
            "task": setting.task,
            "batch": setting.batch,
        }
        if (setting.temperature, setting.task, setting.batch) not in known:
            rows.append(_row(_NONE, 0, without, without, **place))
        row = _row(method, length, run, without, **place)
        rows.append(replace(row, expected_tokens_per_step=None, predicted_speed_up=None) if plan.is_adaptive else row)
        report(_line(rows[-1]))
    return rows


def _both(
    engine: Engine, prompts: list[list[int]], ends: list[int], plan: Plan, setting: Setting, method: str
) -> tuple[Run, Run]:
    """Without and with drafts in turn, answer by answer: both see the same machine, which changes within seconds."""
    size = setting.batch if setting.batch == 1 else 2 * setting.batch
    numbered = list(enumerate(prompts))
    parts = [dict(numbered[first : first + size]) for first in range(0, len(numbered), size)]
    found: dict[str, list[Run]] = {_NONE: [], method: []}
    for part in parts * plan.repeats:
        for name in found:
            run = answer(
                engine,
                part,
                batch=setting.batch,
                temperature=setting.temperature,
                output_tokens=plan.output_tokens,
                eos_token_ids=ends,
                method=name,
                clock=plan.clock,
            )
            found[name].append(run)
    return together(found[_NONE]), together(found[method])


def _row(method: str, length: int, run: Run, without: Run, **place: object) -> Row:
    return Row(
        method=method,
        length=length,
        acceptance=run.acceptance,
        tokens_per_target_step=run.tokens_per_target_step,
        expected_tokens_per_step=expected_tokens(run.acceptance, length) if length else 1.0,
        tokens_per_second=run.tokens_per_second,
        speed_up=run.tokens_per_second / without.tokens_per_second if without.tokens_per_second else 0.0,
        predicted_speed_up=predicted_speed_up(run, without, length) if length else 1.0,
        draft_ms=1000 * run.draft_step_seconds,
        verify_ms=1000 * (run.step_seconds - run.draft_step_seconds),
        equal_share=equal_share(run, without),
        **place,  # type: ignore[arg-type]
    )


def _line(row: Row) -> str:
    """For who waits: a table comes at the end only."""
    predicted = "" if row.predicted_speed_up is None else f", {row.predicted_speed_up:.2f} predicted"
    return (
        f"  {row.task}, T {row.temperature:g}, batch {row.batch}: {row.acceptance:.1%} accepted,"
        f" {row.speed_up:.2f} times as fast{predicted}"
    )


def _load(plan: Plan, method: str, verifier: str, length: int) -> Engine:
    most = max(setting.batch for setting in plan.settings)
    has_long = any(is_long(setting.task) for setting in plan.settings)
    longest = max(plan.context_tokens if has_long else 0, 1024) + plan.output_tokens + length
    return Engine.load(
        EngineConfig(
            model=plan.model,
            num_threads=1 if plan.counts_processor_time else plan.num_threads,
            kv_cache=plan.kv_cache,
            speculation=method,
            draft_model=plan.draft_model,
            verifier=Verifier(verifier),
            max_draft_tokens=length,
            fixed_draft_tokens=not plan.is_adaptive,
            max_running_sequences=most,
            max_waiting_sequences=most,
            num_kv_blocks=(longest // _BLOCK_TOKENS + 2) * (most + 1),
            enable_prefix_cache=False,
        ),
        clock=plan.clock,
    )


def result_table(rows: list[Row]) -> Table:
    table = Table(title="Drafts against none, in the same run")
    columns = ("method", "k", "task", "T", "batch", "acceptance", "tokens/step", "formula", "tok/s")
    for column in (*columns, "speed-up", "predicted", "draft ms", "verify ms", "equal"):
        table.add_column(column, justify="left" if column in ("method", "task") else "right")
    for row in rows:
        name = row.method if row.verifier == Verifier.COUPLED else f"{row.method}, {row.verifier}"
        cells = (
            name,
            str(row.length),
            row.task,
            f"{row.temperature:g}",
            str(row.batch),
            f"{row.acceptance:.1%}" if row.length else "",
            f"{row.tokens_per_target_step:.2f}",
            _number(row.expected_tokens_per_step),
            f"{row.tokens_per_second:.1f}",
            f"{row.speed_up:.2f}",
            _number(row.predicted_speed_up),
            f"{row.draft_ms:.1f}",
            f"{row.verify_ms:.1f}",
            f"{row.equal_share:.1%}",
        )
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _settings(
    lengths: str | None,
    temperatures: str | None,
    tasks: str | None,
    batches: str | None,
    *,
    is_quick: bool,
    is_full: bool,
) -> tuple[Setting, ...]:
    """Raises ValueError."""
    chosen: dict[str, Any] = {}
    if lengths is not None:
        chosen["lengths"] = tuple(int(part) for part in lengths.split(","))
    if temperatures is not None:
        chosen["temperatures"] = tuple(float(part) for part in temperatures.split(","))
    if tasks is not None:
        chosen["tasks"] = tuple(tasks.split(","))
    if batches is not None:
        chosen["batches"] = tuple(int(part) for part in batches.split(","))
    if chosen and (is_quick or is_full):
        raise ValueError(f"--quick and --full choose the rows; so do {', '.join(f'--{name}' for name in chosen)}")
    if chosen:
        return crossed(**chosen)
    if is_full:
        return everything()
    return quick() if is_quick else one_at_a_time()


def _command(
    model: Annotated[Path, typer.Option(help="Directory of a Hugging Face checkpoint with its tokenizer.")],
    methods: Annotated[str, typer.Option(help="Drafts, with commas between.")] = _METHODS,
    draft_model: Annotated[Path | None, typer.Option(help="Directory of a smaller model, for draft-model.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Tokens of a draft; lists are crossed with one another.")] = None,
    temperatures: Annotated[str | None, typer.Option(help="0 is greedy.")] = None,
    tasks: Annotated[str | None, typer.Option(help=f"Of {', '.join(TASKS)}.")] = None,
    batches: Annotated[str | None, typer.Option(help="Sequences at once.")] = None,
    verifiers: Annotated[str, typer.Option(help="coupled, rejection, or both.")] = "coupled",
    kv_cache: Annotated[str, typer.Option(help="16bit, or int8: the draft reads its upper halves.")] = "16bit",
    output_tokens: Annotated[int, typer.Option(min=8, help="Of an answer that does not end before.")] = 96,
    answers: Annotated[int, typer.Option(min=1, help="Of a row; at least two for each sequence of a batch.")] = 4,
    context_tokens: Annotated[int, typer.Option(min=64, help="Of the long task.")] = LONG_TOKENS,
    repeats: Annotated[int, typer.Option(min=1, help="Of each pair of answers.")] = 1,
    is_adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Drafts as long as a pool would make them; k is the most.")
    ] = False,
    processor_time: Annotated[
        bool, typer.Option("--processor-time", help="On a busy machine: speed by the processor time of one thread.")
    ] = False,
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    is_quick: Annotated[
        bool, typer.Option("--quick", help="k = 4 and 8, greedy and 1.0, chat and code, batch 1.")
    ] = False,
    is_full: Annotated[bool, typer.Option("--full", help="Everything crossed: a night.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure drafts: the quick rows, and draft length, temperature, task and batch each by itself."""
    errors = Console(stderr=True)
    try:
        plan = Plan(
            model=model,
            methods=tuple(methods.split(",")),
            settings=_settings(lengths, temperatures, tasks, batches, is_quick=is_quick, is_full=is_full),
            verifiers=tuple(verifiers.split(",")),
            kv_cache=kv_cache,
            output_tokens=output_tokens,
            answers=answers,
            draft_model=draft_model,
            context_tokens=context_tokens,
            repeats=repeats,
            num_threads=num_threads,
            is_adaptive=is_adaptive,
            counts_processor_time=processor_time,
        )
        rows = run_benchmark(plan, lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True))
    except (TokenizerError, ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    else:
        Console(width=160).print(result_table(rows))


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
