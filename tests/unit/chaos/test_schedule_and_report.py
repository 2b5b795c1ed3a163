"""The schedule is a function of its seed and strikes with everything; the table says what happened."""

import itertools

import pytest

from tests.chaos.asks import Ask, Way
from tests.chaos.faults import Injection
from tests.chaos.report import pauses_of, quantile, render, rows, waits_of
from tests.chaos.run import chosen_faults
from tests.chaos.schedule import EVERY_FAULT, Fault, schedule


def a_stream(arrivals: list[float], asked_at: float = 0.0) -> Ask:
    return Ask("a", Way.STREAM, "hi", 1, 10, asked_at=asked_at, accepted_at=asked_at, arrivals=arrivals)


def an_injection(fault: Fault, at: float, *, lasts: float = 0.0) -> Injection:
    return Injection(fault, at, at + lasts, num_in_flight=3)


def test_the_same_seed_strikes_the_same_way() -> None:
    assert schedule(7, seconds=300) == schedule(7, seconds=300)
    assert schedule(7, seconds=300) != schedule(8, seconds=300)


def test_every_kind_strikes_before_any_strikes_twice() -> None:
    first = schedule(3, seconds=600)[: len(EVERY_FAULT)]
    assert {strike.fault for strike in first} == set(EVERY_FAULT)


def test_some_faults_overlap_and_none_comes_after_the_end() -> None:
    strikes = schedule(3, seconds=300)
    pauses = [b.at_seconds - a.at_seconds for a, b in itertools.pairwise(strikes)]
    assert any(pause < 1 for pause in pauses)
    assert any(pause > 3 for pause in pauses)
    assert strikes[-1].at_seconds < 300


def test_a_pause_is_counted_for_the_fault_that_it_overlaps() -> None:
    stream = a_stream([1.0, 1.1, 3.1, 3.2])
    assert pauses_of([an_injection(Fault.KILL_WORKER, 1.2)], [stream]) == [2.0]
    assert pauses_of([an_injection(Fault.KILL_WORKER, 3.15)], [stream]) == []


def test_the_wait_for_the_first_token_is_no_pause() -> None:
    stream = a_stream([5.0, 5.1])
    fault = [an_injection(Fault.FREEZE_KAFKA, 1.0, lasts=4.0)]
    assert (pauses_of(fault, [stream]), waits_of(fault, [stream])) == ([], [5.0])


def test_the_table_has_a_row_for_every_kind_that_struck() -> None:
    table = rows([an_injection(Fault.KILL_WORKER, 1.2), an_injection(Fault.KILL_WORKER, 9.0)], [a_stream([1.0, 3.0])])
    assert render(table).splitlines()[-1] == "| kill worker | 2 | 6 | 1 | 2.0 / 2.0 / 2.0 | - |"


def test_quantiles_of_nothing_are_zero() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0


def test_faults_are_chosen_by_their_names_and_all_of_them_without_a_choice() -> None:
    assert chosen_faults("") == EVERY_FAULT
    assert chosen_faults("kill worker; freeze Kafka 4 s") == (Fault.KILL_WORKER, Fault.FREEZE_KAFKA)
    with pytest.raises(ValueError, match="burn the house"):
        chosen_faults("burn the house")


def test_what_is_not_promised_yet_strikes_only_when_it_is_named() -> None:
    assert Fault.EMPTY_REDIS not in EVERY_FAULT
    assert len(EVERY_FAULT) == len(Fault) - 1
