from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.rope_scaling import RopeKind, RopeScaling, read_rope


def read(raw: dict[str, Any], limit: int = 4096) -> tuple[float, RopeScaling | None]:
    return read_rope(ConfigFields(raw, Path("config.json")), limit)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_nothing_said_is_theta_ten_thousand_and_no_scaling() -> None:
    assert read({}) == (10_000.0, None)


def test_default_scaling_is_no_scaling() -> None:
    assert read({"rope_scaling": {"type": "default"}, "rope_theta": 5.0}) == (5.0, None)


def test_linear_keeps_its_factor_and_the_limit() -> None:
    _, scaling = read({"rope_scaling": {"type": "linear", "factor": 2}}, limit=77)
    assert scaling == RopeScaling(kind=RopeKind.LINEAR, factor=2.0, original_max_position_embeddings=77)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_llama3_is_read_from_both_spellings(spelling: str) -> None:
    _, scaling = read({spelling: LLAMA3})
    assert scaling == RopeScaling(
        kind=RopeKind.LLAMA3,
        factor=32.0,
        original_max_position_embeddings=8192,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
    )


def test_yarn_has_the_papers_defaults() -> None:
    _, scaling = read({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, limit=1024)
    assert scaling is not None
    assert (scaling.beta_fast, scaling.beta_slow, scaling.attention_factor) == (32.0, 1.0, None)
    assert (scaling.original_max_position_embeddings, scaling.truncate) == (1024, True)


def test_yarn_keeps_what_is_said() -> None:
    fields = {"beta_fast": 16, "beta_slow": 2, "attention_factor": 0.5, "mscale": 0.7, "mscale_all_dim": 0.9}
    _, scaling = read({"rope_parameters": {"rope_type": "yarn", "factor": 8, "truncate": False, **fields}})
    assert scaling is not None
    assert {name: getattr(scaling, name) for name in fields} == fields
    assert not scaling.truncate


@pytest.mark.parametrize(
    ("section", "subject"),
    [
        ({"rope_type": "dynamic", "factor": 2}, "rope_type"),
        ({"type": "longrope"}, "type"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor"),
        ({**LLAMA3, "original_max_position_embeddings": None}, "original_max_position_embeddings"),
        ({"rope_type": "yarn", "factor": 2, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "yarn", "factor": 2, "truncate": "no"}, "truncate"),
    ],
)
def test_what_is_wrong_is_named_with_its_section(section: dict[str, Any], subject: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read({"rope_scaling": section})
    assert caught.value.subject == f"rope_scaling.{subject}"
