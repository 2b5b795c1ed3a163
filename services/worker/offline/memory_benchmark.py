"""How much of the KV cache holds tokens: contiguous, paged, and paged with prefix sharing, by context length.

`python -P -m services.worker.offline.memory_benchmark --check`
Drives the engine's real scheduler and block accounting with a mixed load that never ends, and looks at memory once it
is full. No torch, no model: bytes are counted, not allocated. Contiguous preallocation keeps a full context for every
sequence, as servers did before Kwon et al. 2023 (PagedAttention).
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from services.worker.engine.kv_cache.cache_geometry import CacheGeometry
from services.worker.engine.kv_cache.paged_cache import PagedCache
from services.worker.engine.scheduling.scheduler import Scheduler
from services.worker.offline.chat_load import DISTRIBUTION, LoadRequest, mixed_requests
from services.worker.offline.scheduler_driver import run_step, sequence_of

CONTEXTS = (512, 1024, 2048, 4096, 8192)
MOST_WASTE = 0.02
MOST_WASTE_OF_A_CONTEXT = 0.04
LEAST_GAIN = 4.0
SMOLLM2_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 2
"""Keys and values, layers, KV heads, head size, bfloat16."""
_MAX_TOKENS_PER_STEP = 16_384
_MAX_SEQUENCES = 4_096
_BACKLOG = 8
_STEPS_BETWEEN_LOOKS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Means over the steps that were looked at. `wasted_bytes` are held by sequences and hold no token."""

    sequences: float
    held_bytes: float
    wasted_bytes: float

    @property
    def waste(self) -> float:
        return self.wasted_bytes / self.held_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextRow:
    context_tokens: int
    contiguous: MemoryUse
    paged: MemoryUse
    shared: MemoryUse


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    """The same memory for every context length; totals are over all of them."""

    budget_bytes: int
    block_size_tokens: int
    rows: tuple[ContextRow, ...]
    paged_waste: float
    paged_gain: float
    shared_gain: float
    problems: tuple[str, ...]


def measure_memory(
    *,
    contexts: tuple[int, ...] = CONTEXTS,
    budget_sequences: int = 12,
    block_size_tokens: int = 16,
    bytes_per_token: int = SMOLLM2_BYTES_PER_TOKEN,
    steps: int = 400,
) -> MemoryResult:
    """The budget is `budget_sequences` full sequences of the longest context."""
    budget_tokens = budget_sequences * max(contexts)
    rows = []
    for context in contexts:

        def measure(*, is_shared: bool, context: int = context) -> tuple[MemoryUse, float]:
            driven = _Driven(context, budget_tokens // block_size_tokens, block_size_tokens, is_shared=is_shared)
            return driven.measure(steps, bytes_per_token)

        paged, mean_tokens = measure(is_shared=False)
        shared, _ = measure(is_shared=True)
        contiguous = _contiguous(budget_tokens // context, context, mean_tokens, bytes_per_token)
        rows.append(ContextRow(context_tokens=context, contiguous=contiguous, paged=paged, shared=shared))
    return _result(tuple(rows), budget_tokens * bytes_per_token, block_size_tokens)


class _Driven:
    """A scheduler that always has more waiting than fits."""

    def __init__(self, context: int, num_blocks: int, block_size_tokens: int, *, is_shared: bool) -> None:
        self._cache = PagedCache(
            CacheGeometry(block_size_tokens=block_size_tokens, max_step_tokens=_MAX_TOKENS_PER_STEP),
            num_blocks=num_blocks,
            enable_prefix_cache=is_shared,
        )
        self._scheduler = Scheduler(
            self._cache, max_tokens_per_step=_MAX_TOKENS_PER_STEP, max_running_sequences=_MAX_SEQUENCES
        )
        self._load: Iterator[tuple[int, LoadRequest]] = enumerate(mixed_requests(context_tokens=context, seed=context))

    def measure(self, steps: int, bytes_per_token: int) -> tuple[MemoryUse, float]:
        """Also the mean number of tokens that a running sequence has in the cache."""
        for _ in range(steps):
            self._step()
        looks = []
        for step in range(steps):
            self._step()
            if step % _STEPS_BETWEEN_LOOKS == 0:
                looks.append(self._look())
        self._scheduler.check_integrity()
        sequences, held, wasted, tokens = (statistics.fmean(column) for column in zip(*looks, strict=True))
        use = MemoryUse(sequences=sequences, held_bytes=held * bytes_per_token, wasted_bytes=wasted * bytes_per_token)
        return use, tokens / sequences

    def _step(self) -> None:
        while self._scheduler.num_waiting < _BACKLOG:
            number, request = next(self._load)
            self._scheduler.add(sequence_of(request, number))
        run_step(self._scheduler)

    def _look(self) -> tuple[int, int, int, int]:
        """Sequences; cells held; cells held without a token, each block counted once; tokens as sequences see them."""
        size = self._cache.geometry.block_size_tokens
        filled: dict[int, int] = {}
        for sequence in self._scheduler.running:
            for index, block_id in enumerate(sequence.block_tables[0].block_ids):
                num_filled = min(max(sequence.num_computed_tokens - index * size, 0), size)
                filled[block_id] = max(filled.get(block_id, 0), num_filled)
        held = len(filled) * size
        tokens = sum(sequence.num_computed_tokens for sequence in self._scheduler.running)
        return len(self._scheduler.running), held, held - sum(filled.values()), tokens


def _contiguous(num_sequences: int, context: int, mean_tokens: float, bytes_per_token: int) -> MemoryUse:
    """A full context for each; what the same load has in it on average."""
    return MemoryUse(
        sequences=num_sequences,
        held_bytes=num_sequences * context * bytes_per_token,
        wasted_bytes=num_sequences * (context - mean_tokens) * bytes_per_token,
    )


def _result(rows: tuple[ContextRow, ...], budget_bytes: int, block_size_tokens: int) -> MemoryResult:
    waste = sum(row.paged.wasted_bytes for row in rows) / sum(row.paged.held_bytes for row in rows)
    longest = rows[-1]
    problems = [
        f"waste at {row.context_tokens} tokens: {row.paged.waste:.1%}, goal below {MOST_WASTE_OF_A_CONTEXT:.0%}"
        for row in rows
        if row.paged.waste >= MOST_WASTE_OF_A_CONTEXT
    ]
    if waste >= MOST_WASTE:
        problems.append(f"waste over all contexts: {waste:.2%}, goal below {MOST_WASTE:.0%}")
    paged_gain = longest.paged.sequences / longest.contiguous.sequences
    if paged_gain < LEAST_GAIN:
        problems.append(
            f"sequences at {longest.context_tokens} tokens: {paged_gain:.1f} times contiguous, goal {LEAST_GAIN:.0f}"
        )
    return MemoryResult(
        budget_bytes=budget_bytes,
        block_size_tokens=block_size_tokens,
        rows=rows,
        paged_waste=waste,
        paged_gain=paged_gain,
        shared_gain=longest.shared.sequences / longest.contiguous.sequences,
        problems=tuple(problems),
    )


def result_table(result: MemoryResult) -> Table:
    title = f"KV cache of {result.budget_bytes / 2**30:.2f} GiB, blocks of {result.block_size_tokens} tokens"
    table = Table(title=title, caption=f"Mixed load; chats: {DISTRIBUTION}.")
    for column in ("context", "memory", "sequences", "held MiB", "wasted MiB", "waste", "fits"):
        table.add_column(column, justify="left" if column == "memory" else "right")
    for row in result.rows:
        for name, use in (("contiguous", row.contiguous), ("paged", row.paged), ("paged, shared", row.shared)):
            table.add_row(
                f"{row.context_tokens:,}" if name == "contiguous" else "",
                name,
                f"{use.sequences:,.0f}",
                f"{use.held_bytes / 2**20:,.0f}",
                f"{use.wasted_bytes / 2**20:,.1f}",
                f"{use.waste:.2%}",
                f"{use.sequences / row.contiguous.sequences:.1f} x",
            )
        table.add_section()
    return table


def result_json(result: MemoryResult) -> str:
    return json.dumps(dataclasses.asdict(result), indent=2)


def _command(
    block_size: Annotated[int, typer.Option(min=1, help="Tokens of a block.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps to fill the memory, and again to look at it.")] = 400,
    budget_sequences: Annotated[int, typer.Option(min=1, help="The memory, in longest full sequences.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 and name the goals that are missed.")] = False,
) -> None:
    """Count what the KV cache holds and wastes."""
    result = measure_memory(block_size_tokens=block_size, steps=steps, budget_sequences=budget_sequences)
    if as_json:
        sys.stdout.write(result_json(result) + "\n")
    else:
        Console().print(result_table(result))
    if check:
        for problem in result.problems:
            Console(stderr=True).print(f"missed: {problem}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if result.problems else 0)


def main() -> None:
    typer.run(_command)


if __name__ == "__main__":
    main()
