"""Which rows `penstock bench speculation` measures: everything crossed takes a night, so one thing varies at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from services.worker.offline.speculation_tasks import TASKS

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8)
TEMPERATURES = (0.0, 0.7, 1.0)
BATCHES = (1, 4, 16)
_LENGTH = 4
_FIRST_TASKS = ("chat", "edit code")
"""What drafts are worst and best at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`length`: of a draft. `batch`: sequences at once."""

    length: int = _LENGTH
    temperature: float = 0.0
    task: str = _FIRST_TASKS[0]
    batch: int = 1


def crossed(
    lengths: tuple[int, ...] = (_LENGTH,),
    temperatures: tuple[float, ...] = (0.0,),
    tasks: tuple[str, ...] = _FIRST_TASKS,
    batches: tuple[int, ...] = (1,),
) -> tuple[Setting, ...]:
    """Raises ValueError for a task that is none."""
    if unknown := set(tasks) - set(TASKS):
        raise ValueError(f"no such tasks: {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    return tuple(
        Setting(length=length, temperature=temperature, task=task, batch=batch)
        for length, task, batch, temperature in itertools.product(lengths, tasks, batches, temperatures)
    )


def quick() -> tuple[Setting, ...]:
    """The rows that no table goes without."""
    return crossed(lengths=(4, 8), temperatures=(0.0, 1.0))


def one_at_a_time() -> tuple[Setting, ...]:
    """The quick rows, and from their middle (4 tokens, greedy, one sequence) on each thing by itself."""
    rows = (
        *quick(),
        *crossed(lengths=LENGTHS),
        *crossed(temperatures=TEMPERATURES),
        *crossed(tasks=TASKS),
        *crossed(batches=BATCHES),
    )
    return tuple(dict.fromkeys(rows))


def everything() -> tuple[Setting, ...]:
    return crossed(LENGTHS, TEMPERATURES, TASKS, BATCHES)
