"""The card's benchmark: the published load draw by draw, plain words where there is no card, figures on a processor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from services.worker.engine.config import EngineConfig
from services.worker.engine.engine import Engine
from services.worker.offline import gpu_benchmark
from services.worker.offline.gpu_benchmark import published_load, run_load, within_vocabulary
from services.worker.offline.random_checkpoint import QWEN3_06B, bytes_read_per_step, write_random_checkpoint
from tests.builders import tiny_checkpoint

TINY_QWEN3: dict[str, Any] = {
    **QWEN3_06B,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
}


def command() -> typer.Typer:
    application = typer.Typer()
    application.command()(gpu_benchmark._command)
    return application


def test_the_load_is_the_published_one() -> None:
    """nano-vllm's page gives 133,966 output tokens for its 256 sequences."""
    load = published_load()
    assert len(load) == 256
    assert sum(submit.sampling.max_tokens or 0 for submit in load) == 133_966
    lengths = [len(submit.choices[0].prompt_token_ids) for submit in load]
    assert 100 <= min(lengths) < max(lengths) <= 1024
    assert all(submit.sampling.ignore_eos and submit.sampling.temperature == 0.6 for submit in load)


def test_prompts_fit_a_smaller_vocabulary() -> None:
    load = within_vocabulary(published_load(3, 20), 50)
    assert max(max(submit.choices[0].prompt_token_ids) for submit in load) < 50
    assert [submit.sampling for submit in load] == [submit.sampling for submit in published_load(3, 20)]


def test_a_random_checkpoint_loads_and_its_bytes_are_counted(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "random", TINY_QWEN3)
    size = (path / "model.safetensors").stat().st_size
    assert bytes_read_per_step(path, 2) == pytest.approx(size, rel=0.1)
    untied = write_random_checkpoint(tmp_path / "untied", {**TINY_QWEN3, "tie_word_embeddings": False})
    assert bytes_read_per_step(untied, 2) == bytes_read_per_step(path, 2), "the embedding is looked up, the head read"


def test_every_token_of_the_load_is_counted(tmp_path: Path) -> None:
    engine = Engine.load(EngineConfig(model=tiny_checkpoint(tmp_path / "tiny"), num_kv_blocks=64))
    load = within_vocabulary(published_load(3, 12), engine.ready.vocabulary_size)
    times = iter([10.0, 14.0])
    num_tokens, seconds = run_load(engine, load, clock=lambda: next(times))
    assert num_tokens == sum(submit.sampling.max_tokens or 0 for submit in load)
    assert seconds == 4.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_without_a_card_it_says_so_and_measures_nothing() -> None:
    result = CliRunner().invoke(command(), [])
    assert result.exit_code == 1
    assert "no CUDA device here: nothing was measured" in result.output


def test_on_a_processor_it_prints_the_same_figures(tmp_path: Path) -> None:
    model = write_random_checkpoint(tmp_path / "random", TINY_QWEN3)
    options = ["--device", "cpu", "--model", str(model), "--sequences", "2", "--longest", "8", "--block-size", "16"]
    printed = json.loads(CliRunner().invoke(command(), [*options, "--json"]).stdout)
    assert printed["output_tokens"] == sum(submit.sampling.max_tokens or 0 for submit in published_load(2, 8))
    assert printed["bandwidth_share"] == pytest.approx(
        bytes_read_per_step(model, 2) / printed["decode_step_seconds"] / printed["limits"]["read_bytes_per_second"]
    )
    table = CliRunner().invoke(command(), options).stdout
    assert "share of the bandwidth" in table
    assert CliRunner().invoke(command(), [*options, "--attention", "magic"]).exit_code == 2
