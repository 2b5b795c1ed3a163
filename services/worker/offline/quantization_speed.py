"""Which engines the quantization benchmark lets run against each other, and their table of speeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from services.worker.engine.checkpoints.weights import open_checkpoint
from services.worker.offline.kept_figures import FILE_NAME, KeptFigures
from services.worker.offline.llama_cpp import BF16, LlamaCpp, make_file
from services.worker.offline.random_checkpoint import QWEN2_05B, write_random_checkpoint
from services.worker.offline.speed_rounds import (
    Contender,
    OwnEngine,
    Rates,
    Round,
    figures,
    rates_of,
    run_round,
    warm_up,
)

SHAPES = {"qwen2-0.5b": QWEN2_05B}
SHAPE_ROWS = ("none", "rtn-int8", "rtn-int8-g64", "rtn-int4-g64-a8", "rtn-int4-g32-a8", "rtn-int4-g64")
"""Rounded at load: with random weights nothing else differs."""
LLAMA_CPP_KINDS = ("Q8_0", "Q4_0")
PEER_ROWS = (BF16, *LLAMA_CPP_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """`python`: an interpreter that has llama-cpp-python, for files of `kinds`; None: without them.

    `counts_processor_time`: where others use the machine, too, one thread's processor time is what a quiet one would
    take, as far as caches and memory are not shared.
    """

    scratch: Path
    num_rounds: int
    python: Path | None = None
    kinds: tuple[str, ...] = PEER_ROWS
    counts_processor_time: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A row that our engine runs: a directory and a name of quantization/load_time.py."""

    name: str
    directory: Path
    quantization: str


def measure_shape(
    shape: str, names: Sequence[str], conditions: Conditions, report: Callable[[int, int], None]
) -> list[Rates]:
    """Random weights of a known shape, rounded at load as `names` say. Raises KeyError, QuantizationError,
    LlamaCppFailed."""
    model = conditions.scratch / shape
    if not (model / "config.json").is_file():
        write_random_checkpoint(model, SHAPES[shape])
    rows = [Own(name="16-bit" if name == "none" else name, directory=model, quantization=name) for name in names]
    return measure_speed(model, rows, conditions, report)


def measure_speed(
    model: Path, rows: Sequence[Own], conditions: Conditions, report: Callable[[int, int], None]
) -> list[Rates]:
    """llama.cpp's files of `model` and every round that ended are kept: rounds of the same contenders under the same
    conditions are run until there are enough. Raises LlamaCppFailed, ValueError."""
    python, scratch, is_busy = conditions.python, conditions.scratch, conditions.counts_processor_time
    if is_busy and torch.get_num_threads() != 1:
        raise ValueError("processor time is that of one thread: give --num-threads 1")
    checkpoint = open_checkpoint(model)
    kinds = conditions.kinds if python is not None else ()
    names = [*(row.name for row in rows), *(f"llama.cpp {kind}" for kind in kinds)]
    kept = KeptFigures(scratch / FILE_NAME)
    clock = "processor time" if is_busy else "time"
    key = f"speed of {checkpoint.fingerprint}, {clock} of {torch.get_num_threads()} threads: {', '.join(names)}"
    rounds: list[Round] = kept.get(key) or []
    with ExitStack() as stack:
        contenders: list[tuple[str, Contender]] = []
        if len(rounds) < conditions.num_rounds:
            for row in rows:
                own = OwnEngine(row.directory, row.quantization, counts_processor_time=is_busy)
                contenders.append((row.name, stack.enter_context(closing(own))))
            for kind in kinds:
                assert python is not None
                file = make_file(python, model, kind, scratch)
                peer = LlamaCpp(python, file, num_threads=torch.get_num_threads(), counts_processor_time=is_busy)
                contenders.append((f"llama.cpp {kind}", stack.enter_context(closing(peer))))
            warm_up(contenders, vocabulary_size=checkpoint.config.vocabulary_size)
        while len(rounds) < conditions.num_rounds:
            report(len(rounds), conditions.num_rounds)
            vocabulary_size = checkpoint.config.vocabulary_size
            rounds.append(run_round(contenders, number=len(rounds), vocabulary_size=vocabulary_size))
            kept.put(key, rounds)
        return rates_of(rounds)


def speed_table(title: str, rates: Sequence[Rates]) -> Table:
    """Medians with their spread, then how often the first row's and, where it ran, llama.cpp's Q4_0."""
    first = rates[0]
    peer = next((one for one in rates if one.name == "llama.cpp Q4_0"), None)
    table = Table(
        title=f"{title}: tokens per second, {len(first.rounds[figures()[0]])} rounds",
        caption=f"median (least to most); x: times {first.name}" + (f"; q: times {peer.name}" if peer else ""),
    )
    table.add_column("row")
    for figure in figures():
        table.add_column(figure if figure == "prefill" else f"decode, batch {figure}", justify="right")
    for one in rates:
        table.add_row(one.name, *(_cell(one, figure, first, peer) for figure in figures()))
    return table


def _cell(one: Rates, figure: str, first: Rates, peer: Rates | None) -> str:
    least, most = one.spread(figure)
    text = f"{one.median(figure):,.0f} ({least:,.0f} to {most:,.0f}) {one.ratio(first, figure):.2f}x"
    return text if peer is None else f"{text} {one.ratio(peer, figure):.2f}q"
