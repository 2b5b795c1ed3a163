"""How long steps take by their number of rows, measured once while loading: what drafts are worth depends on it."""

from __future__ import annotations

import time
from typing import Protocol

from services.worker.engine.batch import ScheduledBatch, ScheduledSequence, StepOutcome
from services.worker.engine.sequence import BlockTable, RequestProgress, Sequence
from shared.contracts.sampling import SamplingParameters

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_CONTEXT_TOKENS = 64
_ROUNDS = 3
_LONGEST_SECONDS = 1.0
"""Of all rounds together; a large model is known from few sizes."""


class Reads(Protocol):
    def read(self) -> StepOutcome: ...


class Launches(Protocol):
    def launch(self, batch: ScheduledBatch) -> Reads: ...


def measuring_sequence(token_ids: list[int], tables: list[BlockTable]) -> Sequence:
    """Nobody's."""
    request = RequestProgress(
        request_id="measured",
        sampling=SamplingParameters(temperature=0.0),
        order=(0, 0, 0, 0),
        cache_salt="",
        ending_token_ids=frozenset(),
        submitted_ns=0,
    )
    return Sequence(
        request=request,
        choice=0,
        seed=0,
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        max_output_tokens=1,
        block_tables=tables,
    )


def measuring_prompt(token_ids: list[int], *, block_size_tokens: int, num_groups: int) -> ScheduledBatch:
    """All of it in one step that draws nothing, over the cache's first blocks: its tokens lie at the beginning of each
    group's run of ceil(T / block size) blocks."""
    num_blocks = -(-len(token_ids) // block_size_tokens)
    tables = [
        BlockTable(block_ids=list(range(group * num_blocks, (group + 1) * num_blocks))) for group in range(num_groups)
    ]
    sequence = measuring_sequence(token_ids, tables)
    item = ScheduledSequence(sequence=sequence, start=0, num_tokens=len(token_ids), samplers=(), is_decode=False)
    return ScheduledBatch(items=[item])


def measure_steps(
    runner: Launches, *, block_size_tokens: int, num_groups: int, num_blocks: int, max_rows: int
) -> dict[int, float]:
    """The fastest of some rounds for each size. Writes into the cache's first blocks."""
    num_own = min(-(-_CONTEXT_TOKENS // block_size_tokens), num_blocks // num_groups)
    tables = [BlockTable(block_ids=list(range(group * num_own, (group + 1) * num_own))) for group in range(num_groups)]
    sequence = measuring_sequence([0] * (num_own * block_size_tokens), tables)
    found: dict[int, float] = {}
    began = time.perf_counter()
    for size in _SIZES:
        if size > max_rows or (found and time.perf_counter() - began > _LONGEST_SECONDS):
            break
        item = ScheduledSequence(
            sequence=sequence,
            start=sequence.num_tokens - 1,
            num_tokens=1,
            samplers=(sequence,),
            is_decode=True,
        )
        batch = ScheduledBatch(items=[item] * size)
        found[size] = min(_seconds_of(runner, batch) for _ in range(_ROUNDS))
        # A larger step is not faster, whatever else the machine does.
        found[size] = max(found.values())
    return found


def _seconds_of(runner: Launches, batch: ScheduledBatch) -> float:
    began = time.perf_counter()
    runner.launch(batch).read()
    return time.perf_counter() - began
