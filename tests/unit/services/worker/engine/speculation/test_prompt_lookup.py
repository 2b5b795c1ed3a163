"""Drafts that are looked up: in the sequence itself, in a predicted output, in what a tenant's others said."""

from typing import Any

from services.worker.engine.sequence import Sequence, SequenceState
from services.worker.engine.speculation.draft_method import DraftTask
from services.worker.engine.speculation.ngram_index import NgramIndex, continue_from
from services.worker.engine.speculation.prediction import FollowedPrediction
from services.worker.engine.speculation.prompt_lookup import PromptLookup
from tests.engine_driver import make_sequence


def guess(lookup: PromptLookup, sequence: Sequence, num_tokens: int = 4) -> tuple[int, ...]:
    (draft,) = lookup.propose([DraftTask(sequence=sequence, num_tokens=num_tokens)])
    assert draft.probabilities is None
    return draft.token_ids


def predicting(predicted: list[int], output: list[int], **options: Any) -> Sequence:
    sequence = make_sequence([90, 91, *output], num_output_tokens=len(output), **options)
    sequence.request.predicted_token_ids = predicted
    return sequence


def test_what_followed_the_longest_run_the_last_time_is_the_draft() -> None:
    assert guess(PromptLookup(), make_sequence([1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 1, 2, 3])) == (4, 5, 9, 2)


def test_the_latest_of_equal_runs_counts() -> None:
    assert guess(PromptLookup(), make_sequence([1, 2, 5, 1, 2, 6, 1, 2]), 1) == (6,)


def test_a_run_that_may_have_come_by_chance_has_a_short_draft() -> None:
    assert guess(PromptLookup(), make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 1]), 8) == (2, 3)
    assert guess(PromptLookup(), make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 1, 2]), 8) == (3, 4, 5, 6)
    assert guess(PromptLookup(), make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]), 5) == (4, 5, 6, 7, 8)


def test_a_loop_goes_on_as_a_loop() -> None:
    assert guess(PromptLookup(), make_sequence([7, 8, 9, 7, 8, 9, 7, 8]), 7) == (9, 7, 8, 9, 7, 8, 9)
    assert continue_from([5, 5], 1, 3) == (5, 5, 5)


def test_text_that_was_never_seen_has_no_draft() -> None:
    assert guess(PromptLookup(), make_sequence([1, 2, 3, 4, 5])) == ()
    assert guess(PromptLookup(), make_sequence([1])) == ()


def test_a_growing_text_is_indexed_as_if_it_had_been_there_at_once() -> None:
    text = [(place * place) % 7 for place in range(60)]
    growing, whole = NgramIndex((3, 2)), NgramIndex((3, 2))
    for end in range(1, len(text) + 1):
        growing.extend(text[:end])
    whole.extend(text)
    assert growing.find(text) == whole.find(text) is not None


def test_a_prediction_is_followed_from_its_start() -> None:
    assert guess(PromptLookup(), predicting([1, 2, 3, 4, 5], [])) == (1, 2, 3, 4)
    assert guess(PromptLookup(), predicting([1, 2, 3, 4, 5], [1, 2])) == (3, 4, 5)


def test_a_changed_word_stands_in_the_place_of_the_predicted_one() -> None:
    followed = FollowedPrediction([1, 2, 3, 4, 5, 6])
    assert followed.next_tokens([1, 99], 2) == (3, 4)


def test_a_prediction_is_found_again_behind_what_was_put_in_or_left_out() -> None:
    predicted = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    put_in = FollowedPrediction(predicted)
    assert put_in.next_tokens([1, 2, 50, 51, 52, 3, 4], 3) == (5, 6, 7)
    left_out = FollowedPrediction(predicted)
    assert left_out.next_tokens([1, 2, 6, 7], 2) == (8, 9)


def test_behind_its_prediction_a_sequence_looks_at_its_own_text() -> None:
    assert guess(PromptLookup(), predicting([1], [1, 5, 6, 7, 5, 6])) == (7, 5, 6, 7)


def ended(lookup: PromptLookup, token_ids: list[int], tenant: str) -> None:
    sequence = make_sequence(token_ids, salt=tenant)
    guess(lookup, sequence)
    sequence.state = SequenceState.FINISHED
    lookup.forget(sequence)


def test_what_a_tenant_has_said_is_found_by_its_next_sequence_and_by_no_other_tenants() -> None:
    lookup = PromptLookup(shared_text_tokens=100)
    ended(lookup, [1, 2, 3, 4, 5, 6, 7], "lake")
    assert guess(lookup, make_sequence([30, 2, 3, 4], salt="lake")) == (5, 6, 7)
    assert guess(lookup, make_sequence([30, 2, 3, 4], salt="river")) == ()


def test_three_tokens_of_another_text_say_more_than_two_of_the_own_one() -> None:
    lookup = PromptLookup(shared_text_tokens=100)
    ended(lookup, [1, 2, 3, 4, 5, 6, 7], "lake")
    assert guess(lookup, make_sequence([3, 4, 60, 30, 2, 3, 4], salt="lake")) == (5, 6, 7)
    assert guess(lookup, make_sequence([2, 3, 4, 60, 30, 2, 3, 4], salt="lake")) == (60, 30, 2, 3)


def test_shared_text_is_bounded_and_off_when_it_has_no_room() -> None:
    lookup = PromptLookup(shared_text_tokens=20)
    ended(lookup, [1, 2, 3, 4, 5, 6, 7], "lake")
    ended(lookup, list(range(100, 120)), "lake")
    assert guess(lookup, make_sequence([30, 2, 3, 4], salt="lake")) == ()
    assert guess(lookup, make_sequence([30, 114, 115, 116], salt="lake")) == (117, 118, 119)
    without = PromptLookup()
    ended(without, [1, 2, 3, 4, 5, 6, 7], "lake")
    assert guess(without, make_sequence([30, 2, 3, 4], salt="lake")) == ()
