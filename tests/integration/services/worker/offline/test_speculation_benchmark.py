"""The benchmark of drafts on a random model: its rows are whole, and what must be equal is."""

from pathlib import Path

import pytest

from services.worker.offline.speculation_benchmark import Plan, Row, result_table, run_benchmark
from services.worker.offline.speculation_plan import crossed
from services.worker.offline.speculation_run import expected_tokens
from tests.builders import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def rows(checkpoint: Path) -> list[Row]:
    plan = Plan(
        model=checkpoint,
        methods=("draft-model", "lookahead"),
        settings=crossed(lengths=(3,), temperatures=(0.0, 1.0), tasks=("chat",), batches=(1, 2)),
        answers=2,
        counts_processor_time=True,
        verifiers=("coupled",),
        kv_cache="16bit",
        output_tokens=16,
        num_threads=1,
        draft_model=checkpoint,
    )
    said: list[str] = []
    found = run_benchmark(plan, said.append)
    assert sum("times as fast" in line for line in said) == 8
    return found


def test_every_method_has_a_row_for_each_case_and_the_baseline_its_own(rows: list[Row]) -> None:
    cases = [(row.method, row.length, row.temperature, row.batch) for row in rows]
    assert len(set(cases)) == len(cases) == 12
    assert {(method, length) for method, length, _, _ in cases} == {("none", 0), ("draft-model", 3), ("lookahead", 3)}
    assert all(row.tokens_per_second > 0 for row in rows)


def test_no_token_changes(rows: list[Row]) -> None:
    assert {row.equal_share for row in rows} == {1.0}


def test_a_draft_that_is_always_right_brings_what_the_formula_says(rows: list[Row]) -> None:
    for row in rows:
        if row.method == "draft-model":
            assert row.acceptance == 1.0
            assert row.expected_tokens_per_step == expected_tokens(1.0, 3) == 4.0
            # The last step of an answer has room for fewer.
            assert 3.0 <= row.tokens_per_target_step <= 4.0
        if row.method == "none":
            assert (row.speed_up, row.predicted_speed_up, row.tokens_per_target_step) == (1.0, 1.0, 1.0)


def test_the_table_has_all_of_them(rows: list[Row]) -> None:
    assert result_table(rows).row_count == len(rows)


def test_lengths_as_a_pool_chooses_them_have_no_prediction(checkpoint: Path) -> None:
    plan = Plan(
        model=checkpoint,
        methods=("lookahead",),
        settings=crossed(lengths=(4,), tasks=("chat",), batches=(2,)),
        answers=2,
        is_adaptive=True,
        counts_processor_time=True,
        verifiers=("coupled",),
        kv_cache="16bit",
        output_tokens=16,
        num_threads=1,
    )
    found = run_benchmark(plan, lambda _: None)
    assert [(row.method, row.predicted_speed_up) for row in found] == [("none", 1.0), ("lookahead", None)]
    assert {row.equal_share for row in found} == {1.0}
    assert result_table(found).row_count == 2
