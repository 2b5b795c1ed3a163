"""The configuration of every family in Hugging Face's older words means what it means in the newer ones.

transformers writes the newer spelling; the older one is what most published checkpoints have. transformers reads the
older file, too: it must understand the same as we do.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from services.worker.engine.checkpoints.model_config import parse_model_config
from tests.fixtures.random_models import CASES, FULL, SLIDING, SaveModel


def in_older_words(newer: dict[str, Any]) -> dict[str, Any]:
    older = dict(newer)
    older["torch_dtype"] = older.pop("dtype")
    rope = older.pop("rope_parameters")
    if FULL in rope:
        older["rope_local_base_freq"] = rope[SLIDING]["rope_theta"]
        rope = rope[FULL]
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    older["rope_theta"] = rope["rope_theta"]
    older["rope_scaling"] = None
    if scaling["rope_type"] != "default":
        older["rope_scaling"] = scaling
    if "_sliding_window_pattern" in older:
        older["sliding_window_pattern"] = older.pop("_sliding_window_pattern")
    if older["model_type"] != "qwen3":  # whose layers in CASES follow no rule
        older.pop("layer_types", None)
    if older["model_type"] == "qwen3_moe":
        older["num_experts"] = older.pop("num_local_experts")
    return older


@pytest.mark.parametrize("case", CASES)
def test_the_older_spelling_means_the_same(case: str, random_model: SaveModel, tmp_path: Path) -> None:
    directory, _ = random_model(case)
    newer = json.loads((directory / "config.json").read_text())
    older = in_older_words(newer)
    assert older != newer
    assert parse_model_config(older, source=directory) == parse_model_config(newer, source=directory)
    (tmp_path / "config.json").write_text(json.dumps(older))
    theirs, rewritten = AutoConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(directory)
    for field in ("rope_parameters", "layer_types", "sliding_window", "num_experts", "no_rope_layers"):
        assert getattr(theirs, field, None) == getattr(rewritten, field, None), field
