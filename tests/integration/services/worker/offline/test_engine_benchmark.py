import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.worker.offline import engine_benchmark
from services.worker.offline.answer_path import DETOKENIZED, READ, WRITTEN
from services.worker.offline.engine_benchmark import (
    BenchmarkResult,
    parse_batch_sizes,
    result_json,
    result_table,
    run_benchmark,
)
from tests.builders import write_tokenizer
from tests.fixtures.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_checkpoint(directory, config={"vocab_size": 272})
    return directory


@pytest.fixture(scope="module")
def result(model: Path) -> BenchmarkResult:
    return run_benchmark(
        model, batch_sizes=[1, 3], prompt_tokens=20, output_tokens=8, repeats=1, dtype="float32", check=True
    )


def test_every_batch_size_is_measured(result: BenchmarkResult) -> None:
    assert [batch.batch_size for batch in result.batches] == [1, 3]
    assert [batch.num_generated_tokens for batch in result.batches] == [8, 24]
    assert all(batch.output_tokens_per_second > 0 for batch in result.batches)
    assert all(batch.prompt_tokens_per_second > 0 for batch in result.batches)


def test_a_sound_engine_has_no_problems(result: BenchmarkResult) -> None:
    assert result.problems == ()


def test_the_table_has_a_row_for_each_batch(result: BenchmarkResult) -> None:
    console = Console(width=120, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(result_table(result))
    text = captured.get()
    assert "tiny, float32 on cpu" in text
    assert f"KV cache: {result.engine.num_kv_blocks * 16:,} tokens" in text
    assert f"{result.batches[1].output_tokens_per_second:,.1f}" in text


def test_the_json_has_everything(result: BenchmarkResult) -> None:
    parsed = json.loads(result_json(result))
    assert parsed["batches"][1]["output_tokens_per_second"] == result.batches[1].output_tokens_per_second
    assert parsed["engine"]["fingerprint"] == result.engine.fingerprint


def test_lost_tokens_and_other_answers_are_problems(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = engine_benchmark.measure_batch

    def wrong(engine, batch_size, **sizes):  # type: ignore[no-untyped-def]
        honest = measure(engine, batch_size, **sizes)
        if batch_size == 1:
            return honest
        return dataclasses.replace(honest, num_generated_tokens=5, first_output=(-1,))

    monkeypatch.setattr(engine_benchmark, "measure_batch", wrong)
    found = run_benchmark(
        model, batch_sizes=[1, 2], prompt_tokens=4, output_tokens=3, repeats=1, dtype="float32", check=True
    )
    assert found.problems == (
        "batch 2: 5 tokens instead of 6",
        "batch 2: the first prompt is answered differently",
    )


@pytest.mark.parametrize("text", ["", "0", "1,,2", "1,x", "-4"])
def test_batch_sizes_are_positive_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="--batch"):
        parse_batch_sizes(text)


def test_batch_sizes_are_split_at_commas() -> None:
    assert parse_batch_sizes("1, 8,32") == [1, 8, 32]


def command_line(*arguments: str):  # type: ignore[no-untyped-def]
    import typer

    application = typer.Typer()
    application.command()(engine_benchmark._command)
    return CliRunner().invoke(application, list(arguments))


def test_the_command_prints_json(model: Path) -> None:
    sizes = ["--batch", "2", "--prompt-tokens", "4", "--output-tokens", "3", "--repeats", "1"]
    finished = command_line("--model", str(model), *sizes, "--dtype", "float32", "--json", "--check")
    assert finished.exit_code == 0, finished.output
    assert json.loads(finished.stdout)["batches"][0]["num_generated_tokens"] == 6


def test_the_command_says_what_is_wrong_with_its_input(tmp_path: Path) -> None:
    finished = command_line("--model", str(tmp_path), "--batch", "2")
    assert finished.exit_code == 2
    assert "config.json" in finished.stderr
    assert command_line("--model", str(tmp_path), "--batch", "two").exit_code == 2


def test_the_profile_names_what_is_not_the_model(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, config={"vocab_size": 272})
    write_tokenizer(tmp_path)
    found = run_benchmark(
        tmp_path, batch_sizes=[1, 2], prompt_tokens=4, output_tokens=6, repeats=1, dtype="float32", with_profile=True
    )
    assert len(found.profiles) == 2
    for rows in found.profiles:
        in_the_step = {"model", "scheduling", "drafts", "inputs", "launching", "sampling", "reading tokens"}
        behind_it = {"bookkeeping", "reports and statistics", WRITTEN, READ, DETOKENIZED}
        assert {row.part for row in rows} == in_the_step | behind_it
        assert sum(row.share for row in rows) == pytest.approx(1)
        assert rows[0].milliseconds_per_step == max(row.milliseconds_per_step for row in rows)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(engine_benchmark.profile_table(found))
    assert "scheduling" in captured.get()
    assert captured.get().count("all but the model") == 2


def test_a_profile_of_a_model_without_a_tokenizer_has_no_text(model: Path) -> None:
    found = run_benchmark(
        model, batch_sizes=[1], prompt_tokens=4, output_tokens=3, repeats=1, dtype="float32", with_profile=True
    )
    parts = {row.part for row in found.profiles[0]}
    assert WRITTEN in parts
    assert DETOKENIZED not in parts
