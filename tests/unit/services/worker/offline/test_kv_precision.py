"""Which precision each layer's cache gets, from what each costs alone."""

import pytest

from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.offline.kv_precision import cascade, choose

SIZES = {"int4": 5, "int8": 9, "16bit": 16}
COSTS = {"int4": [0.001, 0.020, 0.002, 0.001], "int8": [0.0001, 0.0030, 0.0005, 0.0001]}


def total(name: str) -> float:
    """As if costs added up exactly."""
    formats = [{None: "16bit", 1: "int8", 3: "int4"}[kind] for kind in layer_formats(name, 4)]
    return sum(0 if kind == "16bit" else COSTS[kind][layer] for layer, kind in enumerate(formats))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1.0, "int4"),
        (0.008, "int4*1,int8*1,int4*2"),
        (0.0035, "int4*1,16bit*1,int8*1,int4*1"),
        (0.0, "16bit"),
    ],
)
def test_layers_that_cost_most_for_a_byte_are_raised_until_the_budget_holds(budget: float, expected: str) -> None:
    choice = choose(COSTS, SIZES, budget=budget, measure=total)
    assert choice.name == expected
    assert choice.measured <= budget
    assert layer_formats(choice.name, 4)


def test_the_budget_holds_for_whole_choices_and_few_of_them_are_measured() -> None:
    """Costs alone rank the layers; here all of them together cost twice their sum, in another unit."""
    measured: list[str] = []

    def twice(name: str) -> float:
        measured.append(name)
        return 200 * total(name)

    choice = choose(COSTS, SIZES, budget=0.7, measure=twice)
    assert choice.name == "int4*1,16bit*1,int8*1,int4*1"
    assert choice.measured == 200 * total(choice.name) <= 0.7
    assert len(measured) <= 4


def test_sixteen_bits_everywhere_hold_any_budget() -> None:
    choice = choose(COSTS, SIZES, budget=0.0, measure=lambda name: 1.0)
    assert (choice.name, choice.measured) == ("16bit", 0.0)


def test_a_cascade_is_named_as_the_setting_takes_it() -> None:
    assert cascade(["int8"] * 30) == "int8"
    assert cascade(["int4", "int4", "16bit", "int8"]) == "int4*2,16bit*1,int8*1"
