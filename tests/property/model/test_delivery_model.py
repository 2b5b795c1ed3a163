"""The delivery protocol explored exhaustively, and each of its lines taken out once to see what breaks."""

from pathlib import Path

import pytest

import tests.model
from tests.model.explore import Exploration, explore
from tests.model.ledger_rules import Rules
from tests.model.mixes import DEEP, QUICK, REMOVED, Mix
from tests.model.world import start


def explored(mix: Mix, *, without: int = 0) -> Exploration:
    return explore(start(dict(mix.faults), by_gateway=mix.by_gateway), Rules(without))


@pytest.mark.parametrize("mix", QUICK, ids=str)
def test_no_order_of_steps_and_faults_breaks_a_promise(mix: Mix) -> None:
    found = explored(mix)
    assert (found.problem, found.way) == ("", ())
    assert found.num_states > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mix", DEEP, ids=str)
def test_no_order_of_steps_and_two_faults_breaks_a_promise(mix: Mix) -> None:
    found = explored(mix)
    assert (found.problem, found.way) == ("", ())
    assert found.num_states > 100


@pytest.mark.parametrize("line", sorted(REMOVED))
def test_without_a_line_of_the_protocol_a_promise_is_broken(line: int) -> None:
    mix, promise = REMOVED[line]
    found = explored(mix, without=line)
    assert found.problem == promise
    assert found.way


def test_every_line_of_the_protocol_is_taken_out_once() -> None:
    protocol = (Path(tests.model.__path__[0]).parents[1] / "docs" / "protocol.md").read_text()
    numbered = [line.split(".")[0] for line in protocol.splitlines() if line.split(".")[0].isdecimal()]
    assert sorted(map(int, numbered)) == sorted(REMOVED) == list(range(1, 17))


def test_every_mix_under_which_a_line_is_missed_is_explored_with_all_lines_too() -> None:
    assert {str(mix) for mix, _ in REMOVED.values()} <= {str(mix) for mix in (*QUICK, *DEEP)}


def test_the_model_imports_nothing_of_the_platform() -> None:
    for module in ("ledger_rules", "world", "worker_steps", "strikes", "delivery", "explore", "mixes"):
        source = (Path(tests.model.__path__[0]) / f"{module}.py").read_text()
        assert "shared." not in source
        assert "services." not in source
