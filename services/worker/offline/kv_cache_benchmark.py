"""What a cache in low precision costs and saves, and which precision each layer can have within a budget.

`python -P -m services.worker.offline.kv_cache_benchmark --model DIR --budget 0.3`
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.worker.engine.attention.cell_layout import CellLayout
from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.engine.config import EngineConfig
from services.worker.engine.execution.model_loading import load_model
from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.offline.english_text import Part, builtin_text, digest, windows
from services.worker.offline.kept_figures import FILE_NAME, KeptFigures
from services.worker.offline.kv_precision import SIXTEEN_BIT, Choice, cascade, choose
from services.worker.offline.model_accuracy import Accuracy, Reference, measure_accuracy, take_reference
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError

FORMATS = ("int8", "fp8", "int4")
_CANDIDATES = ("int8", "int4")
_WINDOW_TOKENS = 512
_NUM_WINDOWS, _QUICK_WINDOWS, _PROBE_WINDOWS = 100, 8, 8

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    name: str
    bytes_per_token: int
    accuracy: Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheResult:
    """`choice` None: nothing was asked for. `sensitivity`: KL in nats when each layer alone has it."""

    model: str
    held_text: str
    rows: tuple[CacheRow, ...]
    choice: Choice | None
    sensitivity: dict[str, tuple[float, ...]]


class CacheProbe:
    """One model, measured with one cache after another; what is kept is not measured again."""

    def __init__(self, model: Path, quantization: str, text: torch.Tensor, kept: KeptFigures) -> None:
        self._model, self._quantization, self._text, self._kept = model, quantization, text, kept
        checkpoint = open_checkpoint(model)
        self._shape = checkpoint.config
        self._key = f"caches of {checkpoint.fingerprint}, weights {quantization}, on {digest(text)}"

    @cached_property
    def _reference(self) -> Reference:
        return take_reference(self._text, self._logits(SIXTEEN_BIT))

    @property
    def num_layers(self) -> int:
        return self._shape.num_layers

    def accuracy(self, kv_cache: str) -> Accuracy:
        key = f"{self._key}: {kv_cache}"
        found = self._kept.get(key)
        if found is None:
            accuracy = measure_accuracy(self._text, self._logits(kv_cache), self._reference)
            self._kept.put(key, dataclasses.asdict(accuracy))
            return accuracy
        return Accuracy(**found)

    def bytes_per_token(self, kv_cache: str) -> int:
        formats = layer_formats(kv_cache, self.num_layers)
        heads = 2 * self._shape.num_kv_heads
        plain = 2 * self._shape.head_size
        return sum(
            heads * (plain if kind is None else CellLayout(format=kind, head_size=self._shape.head_size).num_bytes)
            for kind in formats
        )

    def _logits(self, kv_cache: str) -> Callable[[list[int]], torch.Tensor]:
        config = EngineConfig(
            model=self._model,
            max_model_tokens=_WINDOW_TOKENS,
            max_running_sequences=1,
            num_kv_blocks=_WINDOW_TOKENS // 16 + 2,
            quantization=self._quantization,
            kv_cache=kv_cache,
        )
        return load_model(config).runner.prompt_logits


def run_benchmark(
    model: Path,
    *,
    quantization: str,
    num_windows: int,
    budget: float | None,
    kv_cache: tuple[str, ...],
    kept: KeptFigures,
    report: Report,
) -> CacheResult:
    """`budget`: how much perplexity may grow, 0.003. Raises CheckpointError, TokenizerError, ValueError, OSError."""
    open_checkpoint(model)  # says what is wrong with a directory before its tokenizer does
    tokenizer = Tokenizer.from_directory(model)
    text = windows(tokenizer, builtin_text(Part.HELD), length=_WINDOW_TOKENS, count=num_windows)
    choice: Choice | None = None
    sensitivity: dict[str, tuple[float, ...]] = {}
    if budget is not None:
        # Chosen on a text of its own: what is reported was not seen by who chose.
        own = windows(tokenizer, builtin_text(Part.CALIBRATION), length=_WINDOW_TOKENS, count=_PROBE_WINDOWS)
        choice, sensitivity = _choose(CacheProbe(model, quantization, own, kept), budget, report)
    report("16-bit reference")
    probe = CacheProbe(model, quantization, text, kept)
    names = [SIXTEEN_BIT, *kv_cache, *([choice.name] if choice is not None else [])]
    rows = []
    for name in dict.fromkeys(names):
        report(name)
        rows.append(CacheRow(name=name, bytes_per_token=probe.bytes_per_token(name), accuracy=probe.accuracy(name)))
    return CacheResult(
        model=model.name, held_text=digest(text), rows=tuple(rows), choice=choice, sensitivity=sensitivity
    )


def _choose(probe: CacheProbe, budget: float, report: Report) -> tuple[Choice, dict[str, tuple[float, ...]]]:
    base = math.log(probe.accuracy(SIXTEEN_BIT).perplexity)

    def growth(kv_cache: str) -> float:
        report(kv_cache)
        return math.log(probe.accuracy(kv_cache).perplexity) - base

    def alone(name: str, layer: int) -> float:
        # Not perplexity: what one layer changes of it is less than what a text of this length leaves to chance.
        kv_cache = cascade([name if other == layer else SIXTEEN_BIT for other in range(probe.num_layers)])
        report(kv_cache)
        return probe.accuracy(kv_cache).divergence

    costs = {name: tuple(alone(name, layer) for layer in range(probe.num_layers)) for name in _CANDIDATES}
    sizes = {name: probe.bytes_per_token(name) // probe.num_layers for name in (*_CANDIDATES, SIXTEEN_BIT)}
    return choose(costs, sizes, budget=math.log1p(budget), measure=growth), costs


def result_tables(result: CacheResult) -> list[Table]:
    plain = result.rows[0]
    table = Table(
        title=f"{result.model}: a cache in low precision, {plain.accuracy.num_tokens:,} tokens of {result.held_text}",
        caption="Perplexity against the 16-bit cache; agreement and KL(16 bit || row).",
    )
    for column in ("cache", "perplexity", "", "same best token", "KL", "bytes/token"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for row in result.rows:
        table.add_row(
            row.name,
            f"{row.accuracy.perplexity:.3f}",
            f"{row.accuracy.perplexity / plain.accuracy.perplexity - 1:+.2%}",
            f"{row.accuracy.agreement:.1%}",
            f"{row.accuracy.divergence:.5f}",
            f"{row.bytes_per_token:,} ({row.bytes_per_token / plain.bytes_per_token:.0%})",
        )
    if result.choice is None:
        return [table]
    layers = Table(
        title=f"chosen: {result.choice.name}",
        caption=f"perplexity on the text it was chosen on {math.expm1(result.choice.measured):+.2%}; columns: "
        "KL(16 bit || row) when this layer alone has it",
    )
    for column in ("layer", *result.sensitivity, "chosen"):
        layers.add_column(column, justify="right")
    for layer, chosen in enumerate(result.choice.precisions):
        layers.add_row(str(layer), *(f"{own[layer]:.5f}" for own in result.sensitivity.values()), chosen)
    return [table, layers]


def _command(
    model: Annotated[Path, typer.Option(help="Directory of a Hugging Face checkpoint.")],
    budget: Annotated[
        float | None, typer.Option(min=0, help="Per cent that perplexity may grow: each layer's precision is chosen.")
    ] = None,
    kv_cache: Annotated[list[str] | None, typer.Option(help="Caches to measure, names of --kv-cache.")] = None,
    quantization: Annotated[str, typer.Option(help="Weights, as the worker loads them.")] = "none",
    quick: Annotated[bool, typer.Option("--quick", help="A shorter text: 4,096 tokens instead of 51,200.")] = False,
    made: Annotated[
        Path | None, typer.Option(help="Where figures are kept: what is measured there is not measured again.")
    ] = None,
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what a KV cache in low precision costs, and choose a precision for every layer within a budget."""
    errors = Console(stderr=True)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with tempfile.TemporaryDirectory() as thrown_away, Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task("", total=None)
            result = run_benchmark(
                model,
                quantization=quantization,
                num_windows=_QUICK_WINDOWS if quick else _NUM_WINDOWS,
                budget=None if budget is None else budget / 100,
                kv_cache=tuple(kv_cache or FORMATS),
                kept=KeptFigures((made or Path(thrown_away)) / FILE_NAME),
                report=lambda what: bar.update(task, description=what, advance=1),
            )
    except (CheckpointError, TokenizerError, ValueError, OSError) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        sys.stdout.write(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
        return
    for table in result_tables(result):
        Console().print(table)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
