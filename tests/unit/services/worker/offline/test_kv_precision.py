"""Which precision each layer's cache gets, from what each costs alone."""

import pytest

from services.worker.engine.kv_cache.cell_format import layer_formats
from services.worker.offline.kv_precision import cascade, choose

SIZES = {"int4": 5, "int8": 9, "16bit": 16}
COSTS = {"int4": [0.001, 0.020, 0.002, 0.001], "int8": [0.0001, 0.0030, -0.0005, 0.0001]}


def total(name: str) -> float:
    """As if costs added up exactly."""
    formats = [{None: "16bit", 1: "int8", 3: "int4"}[kind] for kind in layer_formats(name, 4)]
    return sum(0 if kind == "16bit" else COSTS[kind][layer] for layer, kind in enumerate(formats))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (1.0, "int4"),
        (0.008, "int4*1,int8*1,int4*2"),
        (0.0045, "int4*1,16bit*1,int8*1,int4*1"),
        (0.0, "16bit*2,int8*1,16bit*1"),
    ],
)
def test_layers_that_cost_most_for_a_byte_are_raised_until_the_budget_holds(budget: float, expected: str) -> None:
    choice = choose(COSTS, SIZES, budget=budget, measure=total)
    assert choice.name == expected
    assert choice.measured <= budget
    assert layer_formats(choice.name, 4)


def test_what_costs_more_together_than_alone_is_raised_further() -> None:
    measured: list[str] = []

    def twice(name: str) -> float:
        measured.append(name)
        return 2 * total(name)

    choice = choose(COSTS, SIZES, budget=0.008, measure=twice)
    assert choice.measured == 2 * total(choice.name) <= 0.008
    assert len(measured) > 1
    assert measured[0] == "int4*1,int8*1,int4*2"


def test_a_cascade_is_named_as_the_setting_takes_it() -> None:
    assert cascade(["int8"] * 30) == "int8"
    assert cascade(["int4", "int4", "16bit", "int8"]) == "int4*2,16bit*1,int8*1"
