"""Drafts are as long as they pay: by acceptance, by what a row costs, by how full the batch is."""

import pytest

from services.worker.engine.scheduling.draft_lengths import DraftLengths, learn
from services.worker.engine.scheduling.step_costs import StepCosts
from services.worker.engine.sequence import Drafting, Sequence
from tests.engine_driver import make_sequence

WEIGHTS_BOUND = {1: 10.0, 8: 11.0, 16: 12.5, 32: 25.0, 64: 50.0}
"""A row costs nearly nothing up to 16 of them, and its full share from there on."""


def speculating(*acceptances: float, method: str = "lookup") -> list[Sequence]:
    sequences = []
    for acceptance in acceptances:
        sequence = make_sequence([1, 2, 3])
        sequence.drafting = Drafting(method=method, acceptance=acceptance)
        sequences.append(sequence)
    return sequences


def choose(costs: StepCosts, sequences: list[Sequence], *, num_rows: int, most: int = 500) -> list[int]:
    return DraftLengths(costs, max_tokens=8).choose(sequences, num_rows=num_rows, most=most)


def test_who_is_accepted_more_drafts_more() -> None:
    lengths = choose(StepCosts(WEIGHTS_BOUND), speculating(0.9, 0.6, 0.02), num_rows=3)
    assert lengths[0] > lengths[1] > lengths[2] == 0


def test_drafts_fade_out_as_the_batch_fills() -> None:
    costs = StepCosts(WEIGHTS_BOUND)
    totals = [sum(choose(costs, speculating(*[0.7] * rows), num_rows=rows)) / rows for rows in (1, 4, 16, 48)]
    assert totals[0] >= totals[1] > totals[2] >= totals[3] == 0


def test_a_draft_that_costs_as_much_as_it_brings_is_not_made() -> None:
    costs = StepCosts(WEIGHTS_BOUND)
    assert choose(costs, speculating(0.8, method="model"), num_rows=1)[0] > 2
    costs.observe_draft("model", num_tokens=1, seconds=9.0)
    assert choose(costs, speculating(0.8, method="model"), num_rows=1) == [0]


def test_together_they_are_no_more_than_there_is_budget() -> None:
    assert sum(choose(StepCosts(WEIGHTS_BOUND), speculating(0.9, 0.9), num_rows=2, most=5)) == 5


def test_who_has_given_up_tries_again_now_and_then() -> None:
    costs, (hopeless,) = StepCosts(WEIGHTS_BOUND), speculating(0.01)
    tries = [choose(costs, [hopeless], num_rows=1)[0] for _ in range(96)]
    assert sum(tries) == 3


def test_acceptance_follows_the_newest_verdicts_and_ignores_what_was_not_judged() -> None:
    drafting = Drafting(method="lookup", acceptance=0.5)
    learn(drafting, num_drafted=8, num_accepted=0)
    assert drafting.acceptance == pytest.approx(0.5 * 15 / 16)
    for _ in range(40):
        learn(drafting, num_drafted=4, num_accepted=4)
    assert drafting.acceptance > 0.99
    assert (drafting.num_drafted, drafting.num_accepted) == (168, 160)


def test_fixed_lengths_are_what_they_are() -> None:
    lengths = DraftLengths(StepCosts({}), max_tokens=3, is_fixed=True)
    assert lengths.choose(speculating(0.0, 1.0), num_rows=2, most=500) == [3, 3]


def test_costs_lie_on_lines_between_what_was_measured_and_go_on_behind_it() -> None:
    costs = StepCosts({1: 10.0, 3: 14.0, 4: 20.0})
    assert [costs.of_step(rows) for rows in (0, 1, 2, 3, 4, 6)] == [10.0, 10.0, 12.0, 14.0, 20.0, 32.0]


def test_costs_follow_what_steps_take_but_not_a_single_hiccup() -> None:
    costs = StepCosts({1: 10.0, 4: 12.0})
    costs.observe_step(1, 1000.0)
    assert costs.of_step(1) == pytest.approx(11.0)
    for _ in range(60):
        costs.observe_step(4, 24.0)
    assert costs.of_step(4) == pytest.approx(24.0, rel=0.05)


def test_unmeasured_costs_take_the_first_steps_word_for_how_fast_the_machine_is() -> None:
    costs = StepCosts({})
    shape = costs.of_step(16) / costs.of_step(1)
    costs.observe_step(1, 0.25)
    assert costs.of_step(1) == pytest.approx(0.25)
    assert costs.of_step(16) == pytest.approx(0.25 * shape)
