from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.config_fields import ConfigFields


def fields(**raw: Any) -> ConfigFields:
    return ConfigFields(raw, Path("x.json"))


def test_null_counts_as_absent() -> None:
    assert fields(a=None).positive_integer("a", default=3) == 3
    with pytest.raises(CheckpointError, match=r"x\.json: a: is missing"):
        fields(a=None).positive_integer("a")


def test_numbers_are_not_truth_values() -> None:
    with pytest.raises(CheckpointError):
        fields(a=True).positive_number("a")
    with pytest.raises(CheckpointError):
        fields(a=0).boolean("a", default=True)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 0, "1"])
def test_a_number_is_finite_and_positive(value: Any) -> None:
    with pytest.raises(CheckpointError, match="must be a positive number"):
        fields(a=value).positive_number("a")


def test_an_integer_is_a_number_too() -> None:
    assert fields(a=4).positive_number("a") == 4.0


def test_a_section_names_its_fields_with_the_path() -> None:
    inner = fields(outer={"a": 0}).section("outer")
    assert inner is not None
    with pytest.raises(CheckpointError) as caught:
        inner.positive_integer("a")
    assert caught.value.subject == "outer.a"
    assert fields().section("outer") is None


def test_token_ids_are_one_or_many() -> None:
    assert fields(a=3).token_ids("a") == (3,)
    assert fields(a=[3, 4]).token_ids("a") == (3, 4)
    assert fields().token_ids("a") == ()
