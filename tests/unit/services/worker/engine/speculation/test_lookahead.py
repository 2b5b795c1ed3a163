"""What the model said about positions ahead is what is drafted when they come."""

from services.worker.engine.batch import Draft, Verdict
from services.worker.engine.sequence import Sequence
from services.worker.engine.speculation.draft_method import DraftTask
from services.worker.engine.speculation.lookahead import Lookahead, SuccessorTable
from tests.engine_driver import make_sequence


def propose(method: Lookahead, sequence: Sequence, num_tokens: int) -> tuple[int, ...]:
    (draft,) = method.propose([DraftTask(sequence=sequence, num_tokens=num_tokens)])
    return draft.token_ids


def judge(method: Lookahead, sequence: Sequence, draft: tuple[int, ...], chosen: tuple[int, ...]) -> None:
    """As the engine does: what stands and the model's own token go to the sequence first."""
    pairs = zip(draft, chosen, strict=False)
    num_accepted = next((place for place, (one, other) in enumerate(pairs) if one != other), len(draft))
    sequence.token_ids += chosen[: num_accepted + 1]
    verdict = Verdict(
        sequence=sequence, draft=Draft(token_ids=draft), num_accepted=num_accepted, target_token_ids=chosen
    )
    method.judged([verdict])


def test_a_run_of_the_text_is_followed_token_by_token() -> None:
    table = SuccessorTable()
    table.read([1, 2, 3, 4, 1, 2])
    assert table.continuation([1, 2], 4) == [3, 4, 1, 2]
    assert table.continuation([9], 4) == []


def test_the_longest_known_run_decides_and_of_equal_ones_the_latest() -> None:
    table = SuccessorTable()
    table.read([1, 2, 5, 7, 2, 6, 1, 2])
    assert table.continuation([1, 2], 1) == [5]
    assert table.continuation([7, 2], 1) == [6]
    table.read([1, 2, 5, 7, 2, 6, 1, 2, 8])
    assert table.continuation([1, 2], 1) == [8]


def test_where_nothing_is_known_a_draft_is_made_all_the_same_for_the_iteration_to_begin() -> None:
    assert propose(Lookahead(), make_sequence([4, 5]), 3) == (5, 5, 5)


def test_choices_behind_a_rejected_token_are_the_next_guess_of_their_positions() -> None:
    method, sequence = Lookahead(), make_sequence([4, 5])
    draft = propose(method, sequence, 3)
    judge(method, sequence, draft, (20, 21, 22, 23))
    assert sequence.token_ids == [4, 5, 20]
    assert propose(method, sequence, 3)[:3] == (21, 22, 23)


def test_the_guess_moves_on_with_tokens_that_came_without_a_draft() -> None:
    method, sequence = Lookahead(), make_sequence([4, 5])
    judge(method, sequence, propose(method, sequence, 3), (20, 21, 22, 23))
    sequence.token_ids.append(31)
    assert propose(method, sequence, 2) == (22, 23)


def test_a_run_that_was_said_ahead_of_time_is_drafted_when_its_beginning_comes() -> None:
    method, sequence = Lookahead(), make_sequence([4, 5])
    # Behind 7, which did not stand, the model said 8, and behind 8 it said 9.
    judge(method, sequence, (7, 8), (20, 8, 9))
    propose(method, sequence, 1)
    judge(method, sequence, (7, 8), (30, 8, 9))
    sequence.token_ids.append(8)
    assert propose(method, sequence, 1) == (9,)


def test_a_sequence_that_ended_is_forgotten() -> None:
    method, sequence = Lookahead(), make_sequence([4, 5, 4])
    assert propose(method, sequence, 1) == (5,)
    method.forget(sequence)
    judge(method, sequence, (9,), (5, 1))
    assert propose(method, make_sequence([5]), 1) == (5,)
