"""The schedule is a function of its seed and strikes with everything; the table says what happened."""

import itertools
from pathlib import Path

import pytest

from tests.chaos.asks import Ask, Way
from tests.chaos.faults import Injection
from tests.chaos.load_mix import null_ask
from tests.chaos.oracle import Verdict
from tests.chaos.report import Leftovers, pauses_of, quantile, render, rows, summary, waits_of
from tests.chaos.run import chosen_faults, plans
from tests.chaos.schedule import EVERY_FAULT, MODEL_FAULTS, RARE_FAULTS, Fault, schedule


def a_stream(arrivals: list[float], asked_at: float = 0.0) -> Ask:
    ask = null_ask("a", Way.STREAM, "hi", seed=1, num_tokens=10)
    ask.asked_at = ask.accepted_at = asked_at
    ask.arrivals = arrivals
    return ask


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


def test_a_run_that_measures_one_fault_at_a_time_has_no_overlaps() -> None:
    strikes = schedule(3, seconds=300, pause_seconds=(7.0, 11.0), overlap_share=0.0)
    assert all(after.at_seconds - before.at_seconds >= 6.9 for before, after in itertools.pairwise(strikes))


def test_a_pause_is_counted_for_the_fault_that_it_overlaps() -> None:
    stream = a_stream([1.0, 1.1, 3.1, 3.2])
    assert pauses_of([an_injection(Fault.KILL_WORKER, 1.2)], [stream]) == [2.0]
    assert pauses_of([an_injection(Fault.KILL_WORKER, 3.15)], [stream]) == []


@pytest.mark.parametrize(("other_at", "pauses"), [(30.0, []), (39.5, []), (41.5, []), (20.0, [2.0]), (43.0, [2.0])])
def test_a_pause_is_a_faults_own_when_no_other_struck_shortly_before_or_in_it(
    other_at: float, pauses: list[float]
) -> None:
    stream, kill = a_stream([39.9, 40.0, 42.0]), an_injection(Fault.KILL_WORKER, 40.5)
    for fault in (Fault.KILL_WORKER, Fault.FREEZE_KAFKA):
        other = an_injection(fault, other_at, lasts=0.5)
        assert pauses_of([kill], [stream], alone_among=[kill, other]) == pauses


def test_the_wait_for_the_first_token_is_no_pause() -> None:
    stream = a_stream([5.0, 5.1])
    fault = [an_injection(Fault.FREEZE_KAFKA, 1.0, lasts=4.0)]
    assert (pauses_of(fault, [stream]), waits_of(fault, [stream])) == ([], [5.0])


def test_the_table_has_a_row_for_every_kind_that_struck() -> None:
    struck = [an_injection(Fault.KILL_WORKER, 1.2), an_injection(Fault.KILL_WORKER, 9.0)]
    table = rows(struck, [a_stream([1.0, 3.0])], Verdict())
    assert render(table).splitlines()[-1] == (
        "| kill worker | 2 | 6 | 0 | 0 | 0 | 1 | 2.0 / 2.0 / 2.0 | 1: 2.0 / 2.0 / 2.0 | - |"
    )


def test_what_was_lost_is_counted_under_every_fault_of_its_life() -> None:
    lost, early = a_stream([1.0], asked_at=5.0), a_stream([1.0], asked_at=0.0)
    early.ended_at = 2.0
    verdict = Verdict()
    verdict.convict("lost", lost, "no terminal")
    verdict.convict("stream", early, "choice 0: duplicate at character 3")
    struck = [an_injection(Fault.KILL_WORKER, 1.0), an_injection(Fault.KILL_GATEWAY, 20.0)]
    found = {row.fault: (row.lost, row.duplicated, row.differing) for row in rows(struck, [lost, early], verdict)}
    assert found == {"kill worker": (0, 1, 0), "kill gateway": (1, 0, 0)}


def test_the_summary_tells_what_is_left_and_what_nobody_could_say() -> None:
    text = summary(Verdict(), [a_stream([1.0])], Leftovers(lag=3, requests=0, kv_blocks=None))
    assert "accepted 1 of 1 asked, 10 tokens" in text
    assert "lag 3, requests left running 0, KV blocks leaked None" in text
    assert not Leftovers(lag=0, requests=0, kv_blocks=None).is_nothing
    assert Leftovers(lag=0, requests=0, kv_blocks=0).is_nothing


def test_rare_faults_are_in_every_third_round() -> None:
    strikes = schedule(5, seconds=3_000)
    counts = {fault: sum(strike.fault is fault for strike in strikes) for fault in EVERY_FAULT}
    assert all(2 * counts[fault] < counts[Fault.KILL_WORKER] for fault in RARE_FAULTS)
    assert all(counts[fault] for fault in EVERY_FAULT)


def test_a_run_has_a_part_with_a_model_unless_it_is_given_no_time(tmp_path: Path) -> None:
    null, model = plans(tmp_path, {"CHAOS_MINUTES": "10"})
    assert (null.seconds, null.model, model.seconds) == (600, None, 120)
    assert model.faults == MODEL_FAULTS
    (only,) = plans(tmp_path, {"CHAOS_MINUTES": "10", "CHAOS_MODEL_MINUTES": "0", "CHAOS_FAULTS": "kill worker"})
    assert only.faults == (Fault.KILL_WORKER,)


def test_quantiles_of_nothing_are_zero() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0


def test_faults_are_chosen_by_their_names_and_all_of_them_without_a_choice() -> None:
    assert chosen_faults("") == EVERY_FAULT
    assert chosen_faults("kill worker; freeze Kafka 4 s") == (Fault.KILL_WORKER, Fault.FREEZE_KAFKA)
    with pytest.raises(ValueError, match="burn the house"):
        chosen_faults("burn the house")
