from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields
from services.worker.engine.checkpoints.rope_scaling import (
    Rope,
    RopeContext,
    RopeKind,
    RopeScaling,
    read_rope,
    read_two_ropes,
)


def read_whole(raw: dict[str, Any], **context: Any) -> Rope:
    places = RopeContext(**{"head_size": 64, "max_position_embeddings": 4096, **context})
    return read_rope(ConfigFields(raw, Path("config.json")), places)


def read(raw: dict[str, Any], limit: int = 4096) -> tuple[float, RopeScaling | None]:
    rope = read_whole(raw, max_position_embeddings=limit)
    return rope.theta, rope.scaling


def read_two(raw: dict[str, Any]) -> tuple[Rope, Rope]:
    context = RopeContext(head_size=64, max_position_embeddings=4096, default_theta=1e6)
    return read_two_ropes(ConfigFields(raw, Path("config.json")), context, default_local_theta=1e4)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


LONGROPE = {"type": "longrope", "original_max_position_embeddings": 1024, "short_factor": [1.5] * 32}


def test_longrope_derives_its_magnitude_from_both_lengths() -> None:
    """sqrt(1 + ln 4 / ln 1024): transformers' rule, for the short factors, too."""
    _, scaling = read({"rope_scaling": LONGROPE})
    assert scaling is not None
    assert scaling.attention_factor == pytest.approx(1.2**0.5)
    assert scaling.short_factors == (1.5,) * 32
    _, told = read({"rope_scaling": {**LONGROPE, "attention_factor": 1.25}})
    assert told is not None
    assert told.attention_factor == 1.25


def test_longropes_original_length_may_stand_beside_the_section() -> None:
    section = {name: value for name, value in LONGROPE.items() if not name.startswith("original")}
    rope = read_whole({"rope_scaling": section}, original_max_position_embeddings=1024, may_stretch=False)
    assert rope.scaling is not None
    assert rope.scaling.original_max_position_embeddings == 1024


def test_dynamic_is_bound_to_the_length_it_was_trained_for() -> None:
    _, scaling = read({"rope_scaling": {"type": "dynamic", "factor": 2}}, limit=77)
    assert scaling == RopeScaling(kind=RopeKind.DYNAMIC, factor=2.0, original_max_position_embeddings=77)
    assert scaling.kind.follows_length


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
        ({"rope_type": "dynamic"}, "factor"),
        ({"type": "longrope"}, "original_max_position_embeddings"),
        ({**LONGROPE, "original_max_position_embeddings": 4097}, "original_max_position_embeddings"),
        ({**LONGROPE, "short_factor": None}, "short_factor"),
        ({**LONGROPE, "short_factor": 2.0}, "short_factor"),
        ({**LONGROPE, "short_factor": [1.0] * 31 + [0]}, "short_factor"),
        ({**LONGROPE, "short_factor": [1.0] * 31}, "short_factor"),
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


def test_a_part_of_the_head_may_turn_where_the_architecture_has_that() -> None:
    for raw in ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}):
        assert read_whole(raw, may_be_partial=True).rotary_size == 32
        with pytest.raises(CheckpointError, match=r"partial_rotary_factor: 0\.5 is not supported"):
            read_whole(raw)
    assert read_whole({}, may_be_partial=True).rotary_size == 64


@pytest.mark.parametrize("share", [0.01, 0.05, 1.5])
def test_a_part_that_is_no_even_number_of_dimensions_is_refused(share: float) -> None:
    with pytest.raises(CheckpointError, match="is not an even part of a head"):
        read_whole({"partial_rotary_factor": share}, may_be_partial=True)


@pytest.mark.parametrize("kind", ["dynamic", "yarn", "linear", "su"])
def test_an_architecture_that_may_not_stretch_refuses_every_scaling_but_longrope(kind: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"rope_scaling.type: '{kind}' is not supported; one of default, longrope$"
    ):
        read_whole({"rope_scaling": {"type": kind, "factor": 2.0}}, may_stretch=False)


def test_two_spellings_in_one_file_must_say_the_same() -> None:
    both = {"rope_parameters": LLAMA3, "rope_scaling": LLAMA3}
    assert read(both) == read({"rope_scaling": LLAMA3})
    with pytest.raises(CheckpointError, match="rope_scaling: contradicts rope_parameters"):
        read({**both, "rope_scaling": {**LLAMA3, "factor": 2.0}})


def test_the_original_length_beside_the_section_must_be_the_one_inside() -> None:
    assert read({"rope_scaling": LLAMA3, "original_max_position_embeddings": 8192})[1] is not None
    with pytest.raises(CheckpointError, match="original_max_position_embeddings: 4096 contradicts"):
        read({"rope_scaling": LLAMA3, "original_max_position_embeddings": 4096})
    assert read({"original_max_position_embeddings": 4096}) == (10_000.0, None)


def test_yarn_needs_a_theta_above_one() -> None:
    with pytest.raises(CheckpointError, match=r"rope_theta: 1\.0 must be above 1"):
        read({"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}})


def test_ropes_by_layer_type_are_refused_where_there_is_one() -> None:
    with pytest.raises(CheckpointError, match=r"rope_parameters\.sliding_attention: ropes that differ"):
        read({"rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}})


def test_two_ropes_are_read_from_both_spellings() -> None:
    linear = {"rope_type": "linear", "factor": 8.0}
    older = read_two({"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": linear})
    newer = read_two(
        {
            "rope_parameters": {
                "full_attention": {**linear, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        }
    )
    assert older == newer
    whole, local = newer
    assert (whole.theta, whole.scaling is not None, local.theta, local.scaling) == (5e5, True, 2e4, None)


def test_two_ropes_have_defaults_of_their_own() -> None:
    for raw in ({}, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}):
        whole, local = read_two(raw)
        assert (whole.theta, local.theta) == (1e6, 1e4)


def test_two_ropes_are_not_read_from_one_section() -> None:
    with pytest.raises(CheckpointError, match="rope_parameters: must have full_attention and sliding_attention"):
        read_two({"rope_parameters": {"rope_theta": 5e5}})
