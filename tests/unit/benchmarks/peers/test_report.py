"""The table, its goals and its limits, from figures made up here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file

from services.worker.offline.gguf_export import gguf_name, interleaved, write_gguf
from tests.benchmarks.peers.checkpoints import QWEN2_05B, random_weights
from tests.benchmarks.peers.engines import draw_prompts
from tests.benchmarks.peers.environment import needed_by_vllm
from tests.benchmarks.peers.report import Report, as_table, layer_values
from tests.benchmarks.peers.rounds import Shape

BATCH_1 = Shape(name="batch 1", batch_size=1, prompt_tokens=32, output_tokens=33)
PREFILL = Shape(name="prefill 512", batch_size=1, prompt_tokens=512, output_tokens=1)


@pytest.fixture
def report() -> Report:
    made = Report(model="m", config=QWEN2_05B, shapes=[BATCH_1, PREFILL])
    made.bandwidths = [30e9, 40e9, 33e9]
    made.products = [{"bfloat16": 210e9, "float32": 440e9}]
    made.first_token_seconds = {"penstock": 2.0, "vllm": 80.0}
    for own, peer in ((30.0, 15.0), (33.0, 11.0), (20.0, 10.0)):
        made.figures.add("penstock", "batch 1", own)
        made.figures.add("vllm", "batch 1", peer)
    made.figures.add("penstock", "prefill 512", 300.0)
    made.figures.add("vllm", "prefill 512", 300.0)
    return made


def test_limits_follow_from_the_shape_of_the_model(report: Report) -> None:
    assert (
        layer_values(QWEN2_05B)
        == sum(
            weight.numel()
            for name, weight in random_weights(QWEN2_05B | {"vocab_size": 8}).items()
            if weight.dim() == 2
        )
        - 8 * 896
    )
    assert report.limit(BATCH_1) == pytest.approx(33e9 / 988e6, rel=0.01)
    assert report.limit(PREFILL) == pytest.approx(440e9 / (2 * 358e6), rel=0.01)


def test_the_table_says_which_goals_are_met_and_which_are_short(report: Report) -> None:
    table = as_table(report)
    assert "| penstock / vllm | 2.00 (met: 1.7) | 1.00 (short: 1.8) | 40.0 times sooner |  |" in table
    assert "30 (20 to 33)" in table
    assert "(met: 0.85)" in table


def test_an_engine_without_a_figure_leaves_its_cell_empty(report: Report) -> None:
    report.first_token_seconds["llama.cpp"] = 1.0
    report.figures.add("llama.cpp", "batch 1", 15.0)
    row = next(line for line in as_table(report).splitlines() if line.startswith("| llama.cpp"))
    assert row.split("|")[3].strip() == ""


def test_every_row_has_a_cell_for_every_column_also_in_a_part_without_rounds(report: Report) -> None:
    for shapes in (report.shapes, []):
        report.shapes = shapes
        rows = [line for line in as_table(report).splitlines() if line.startswith("|")]
        assert {row.count("|") for row in rows} == {len(shapes) + 4}


def test_the_json_holds_every_round_and_every_ratio(report: Report) -> None:
    report.figures.problems["vllm", "batch 32"] = "out of memory"
    found = json.loads(json.dumps(report.as_json()))
    assert found["rounds"]["penstock: batch 1"] == [30.0, 33.0, 20.0]
    assert found["ratios"]["batch 1"]["vllm"] == 2.0
    assert found["tokens_per_second"]["batch 1"]["vllm"]["median"] == 11.0
    assert found["problems"] == {"vllm: batch 32": "out of memory"}


def test_prompts_are_the_same_in_every_process() -> None:
    assert draw_prompts(2, 5, 1000, seed=3) == draw_prompts(2, 5, 1000, seed=3)
    assert draw_prompts(1, 5, 1000, seed=3) != draw_prompts(1, 5, 1000, seed=4)
    assert all(100 <= token < 1000 for prompt in draw_prompts(4, 100, 1000) for token in prompt)


def test_of_vllms_requirements_torch_and_extras_are_left_out() -> None:
    listed = ["torch==2.99+cpu", "torchvision", "numpy<3", 'boto3; extra == "s3"', "transformers>=5"]
    assert needed_by_vllm(listed) == ["numpy<3", "transformers>=5"]


def test_tensors_get_the_names_that_llama_cpp_knows() -> None:
    assert gguf_name("model.layers.13.self_attn.q_proj.bias") == "blk.13.attn_q.bias"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(KeyError):
        gguf_name("model.layers.1.mlp.router.weight")


def test_halves_of_a_head_become_neighbours() -> None:
    weight = torch.arange(8.0)[:, None].expand(8, 3)
    assert interleaved(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_gguf_file_holds_the_same_values(tmp_path: Path) -> None:
    config = QWEN2_05B | {"vocab_size": 32, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    weights = random_weights(config)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {tensor.name: tensor for tensor in GGUFReader(write_gguf(tmp_path)).tensors}
    assert len(tensors) == len(weights)
    found = np.asarray(tensors["blk.0.ffn_down.weight"].data).view(np.uint16).reshape(64, 96)
    expected = weights["model.layers.0.mlp.down_proj.weight"].view(torch.uint16).numpy()
    assert np.array_equal(found, expected)
    assert write_gguf(tmp_path).stat().st_mtime_ns == write_gguf(tmp_path).stat().st_mtime_ns
