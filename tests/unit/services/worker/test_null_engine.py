"""The null engine keeps the real one's promises: limits, cancels, ends, and tokens that depend on all before them."""

from dataclasses import replace
from typing import Any

from services.worker.engine.events import Cancel, ChoiceStart, Submit, TokensSampled
from services.worker.null_engine import NullEngine, NullEngineConfig, absorb, token_at
from shared.contracts.grammar import Grammar, GrammarKind
from shared.contracts.sampling import SamplingParameters

VOCABULARY = (5, 6, 7, 8)


def engine(**options: Any) -> NullEngine:
    return NullEngine(NullEngineConfig(vocabulary=VOCABULARY, **options))


def submit(request_id: str, *, n: int = 1, prompt: tuple[int, ...] = (1, 2), **sampling: Any) -> Submit:
    choices = [ChoiceStart(index=i, prompt_token_ids=list(prompt), seed=i) for i in range(n)]
    parameters = SamplingParameters(**{"max_tokens": 8, **sampling})
    return Submit(request_id=request_id, choices=choices, sampling=parameters, eos_token_ids=[0])


def run(null: NullEngine) -> list[TokensSampled]:
    events: list[TokensSampled] = []
    while null.has_work:
        events.extend(null.step().tokens)
    return events


def tokens_of(events: list[TokensSampled], request_id: str, choice: int = 0) -> list[int]:
    return [token for e in events if (e.request_id, e.choice) == (request_id, choice) for token in e.token_ids]


def test_a_request_gets_max_tokens_and_says_length() -> None:
    null = engine()
    null.submit(submit("a"))
    events = run(null)
    assert [event.position for event in events] == list(range(8))
    assert [event.finish_reason for event in events] == [None] * 7 + ["length"]
    assert set(tokens_of(events, "a")) <= set(VOCABULARY)


def test_tokens_do_not_depend_on_who_runs_beside() -> None:
    alone, crowded = engine(), engine()
    alone.submit(submit("a"))
    for name in ("b", "a", "c"):
        crowded.submit(submit(name, prompt=(ord(name),) if name != "a" else (1, 2)))
    assert tokens_of(run(alone), "a") == tokens_of(run(crowded), "a")


def test_another_prompt_or_seed_gives_other_tokens() -> None:
    null = engine()
    null.submit(submit("a", n=2, max_tokens=32))
    null.submit(submit("b", prompt=(2, 1), max_tokens=32))
    events = run(null)
    assert len({tuple(tokens_of(events, *key)) for key in (("a", 0), ("a", 1), ("b", 0))}) == 3


def test_a_cancellation_leaves_one_step_to_tell_that_the_blocks_are_free() -> None:
    null = engine()
    null.submit(submit("a"))
    assert null.step().statistics.blocks_used == 1
    null.cancel(Cancel(request_id="a"))
    assert null.has_work
    assert null.step().statistics.blocks_used == 0
    assert not null.has_work


def test_a_missing_token_changes_all_that_follow() -> None:
    state = absorb(absorb(0, 1), 2)
    assert absorb(state, 3) != absorb(absorb(0, 1), 3)
    assert token_at(state, 0, 0, VOCABULARY) in VOCABULARY


def test_no_more_sequences_run_than_allowed_and_none_is_forgotten() -> None:
    null = engine(max_running_sequences=2)
    for name in "abcde":
        null.submit(submit(name))
    first = null.step()
    assert first.statistics.num_running == 2
    assert first.statistics.num_waiting == 3
    events = [*first.tokens, *run(null)]
    assert {len(tokens_of(events, name)) for name in "abcde"} == {8}


def test_a_request_with_more_choices_than_fit_runs_alone_rather_than_never() -> None:
    null = engine(max_running_sequences=2)
    null.submit(submit("wide", n=3))
    assert len(run(null)) == 24


def test_cancelling_one_choice_leaves_the_others() -> None:
    null = engine()
    null.submit(submit("a", n=2))
    null.step()
    null.cancel(Cancel(request_id="a", choice=0))
    events = run(null)
    assert {event.choice for event in events} == {1}


def test_cancelling_works_while_waiting_and_for_unknown_ids() -> None:
    null = engine(max_running_sequences=1)
    null.submit(submit("runs"))
    null.submit(submit("waits"))
    null.step()
    null.cancel(Cancel(request_id="waits"))
    null.cancel(Cancel(request_id="nobody"))
    assert {event.request_id for event in run(null)} == {"runs"}
    assert not null.has_work


def test_a_stop_token_ends_a_choice_with_stop() -> None:
    null = engine()
    null.submit(submit("a", max_tokens=100, stop_token_ids=(5,)))
    events = run(null)
    assert events[-1].finish_reason == "stop"
    assert events[-1].token_ids == [5]
    assert 5 not in tokens_of(events[:-1], "a")


def test_timings_come_with_the_last_token_of_a_request() -> None:
    null = engine()
    null.submit(submit("a", n=2, max_tokens=2))
    first, second = null.step(), null.step()
    assert not first.timings
    (timings,) = second.timings
    assert timings.submitted_ns <= timings.scheduled_ns <= timings.first_token_ns <= timings.last_token_ns


def test_statistics_count_what_is_outstanding() -> None:
    null = engine()
    null.submit(submit("a", n=2))
    statistics = null.step().statistics
    assert statistics.outstanding_tokens == 14
    assert statistics.num_prefill_tokens == 4
    assert statistics.num_decode_tokens == 2


def test_a_grammar_is_refused_by_its_fields_name_and_not_ignored() -> None:
    null = engine()
    grammar = Grammar(kind=GrammarKind.REGEX, text="a", field="response_format")
    null.submit(replace(submit("held"), grammar=grammar))
    null.submit(submit("free", max_tokens=1))
    result = null.step()
    assert [(one.request_id, one.param) for one in result.rejected] == [("held", "response_format")]
    assert [event.request_id for event in result.tokens] == ["free"]
    assert not null.has_work


def test_a_refusal_is_work_until_it_is_told() -> None:
    null = engine()
    null.submit(replace(submit("held"), grammar=Grammar(kind=GrammarKind.JSON_OBJECT)))
    assert null.has_work
    assert null.step().rejected
    assert not null.has_work


def test_a_prompt_it_knows_is_not_read_again_and_it_says_so() -> None:
    null = engine(prefix_cache_blocks=10)
    null.submit(submit("a", prompt=tuple(range(40)), max_tokens=1))
    first = null.step()
    null.submit(submit("b", prompt=tuple(range(40)), max_tokens=1))
    second = null.step()
    assert (first.statistics.num_prefill_tokens, first.timings[0].cached_prompt_tokens) == (40, 0)
    assert (second.statistics.num_prefill_tokens, second.timings[0].cached_prompt_tokens) == (8, 32)


def test_every_so_many_th_request_fails_in_the_middle_if_it_is_told_to() -> None:
    null = engine(fail_every=2)
    null.submit(submit("a", max_tokens=40))
    null.submit(submit("b", max_tokens=40))
    events, rejected = [], []
    while null.has_work:
        result = null.step()
        events += result.tokens
        rejected += result.rejected
    assert len(tokens_of(events, "a")) == 40
    assert 0 < len(tokens_of(events, "b")) < 40
    assert [(reject.request_id, reject.code) for reject in rejected] == [("b", "engine_failed")]


def test_a_request_that_was_to_fail_and_is_cancelled_does_not_fail_when_it_comes_again() -> None:
    null = engine(fail_every=2)
    null.submit(submit("a"))
    null.submit(submit("b", max_tokens=40))
    null.step()
    null.cancel(Cancel(request_id="b"))
    null.submit(submit("b", max_tokens=40))
    assert len(tokens_of(run(null), "b")) == 40
