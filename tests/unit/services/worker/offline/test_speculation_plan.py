"""Which rows the benchmark of drafts has: none twice, and those that no table goes without."""

import pytest

from services.worker.offline.speculation_plan import (
    BATCHES,
    LENGTHS,
    TEMPERATURES,
    Setting,
    crossed,
    everything,
    one_at_a_time,
    quick,
)
from services.worker.offline.speculation_tasks import TASKS


def test_the_quick_rows_are_those_of_four_and_eight_tokens() -> None:
    assert {(row.length, row.temperature, row.task, row.batch) for row in quick()} == {
        (length, temperature, task, 1)
        for length in (4, 8)
        for temperature in (0.0, 1.0)
        for task in ("chat", "edit code")
    }


def test_each_thing_varies_by_itself_and_no_row_comes_twice() -> None:
    rows = one_at_a_time()
    assert len(set(rows)) == len(rows)
    assert set(quick()) <= set(rows) <= set(everything())
    assert {row.length for row in rows} == set(LENGTHS)
    assert {row.temperature for row in rows} == set(TEMPERATURES)
    assert {row.task for row in rows} == set(TASKS)
    assert {row.batch for row in rows} == set(BATCHES)
    assert len(rows) < len(everything()) / 8


def test_what_is_not_chosen_is_the_middle() -> None:
    assert crossed(tasks=("chat",)) == (Setting(length=4, temperature=0.0, task="chat", batch=1),)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="no such tasks: knitting; there are chat, "):
        crossed(tasks=("chat", "knitting"))
