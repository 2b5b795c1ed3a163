"""Chunks into an unbroken order: gaps, repeats, other borders, tails. With a property over all of them."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.stream_order import (
    ContradictingLog,
    StreamOrder,
    StreamPosition,
    delivered_prefix,
)
from shared.contracts.events import Chunk, FinishReason, TokenLogprob


def chunk(position: int, text: str, *, choice: int = 0, finish: bool = False) -> Chunk:
    return Chunk(
        choice=choice,
        position=position,
        token_ids=tuple(ord(character) for character in text),
        text=text,
        finish_reason=FinishReason.STOP if finish else None,
    )


def deliver(order: StreamOrder, *chunks: Chunk) -> None:
    for one in chunks:
        assert order.is_next(one) is True
        order.delivered(one)


def test_what_continues_the_delivered_is_next_per_choice() -> None:
    order = StreamOrder(2)
    deliver(order, chunk(0, "ab"), chunk(0, "x", choice=1), chunk(2, "c"), chunk(1, "y", choice=1))


def test_a_repeat_is_dropped_and_a_gap_is_for_the_log() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "ab"))
    assert order.is_next(chunk(0, "ab")) is False
    assert order.is_next(chunk(1, "b")) is False
    assert order.is_next(chunk(3, "d")) is None
    assert order.is_next(chunk(1, "bc")) is None


def test_a_finished_choice_takes_nothing_more() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "a", finish=True))
    assert order.is_complete
    assert order.is_next(chunk(1, "b")) is False
    assert order.is_next(chunk(1, "", finish=True)) is False


def test_choices_that_do_not_exist_are_dropped() -> None:
    order = StreamOrder(1)
    assert order.is_next(chunk(0, "a", choice=1)) is False
    assert order.missing([chunk(0, "a", choice=1), chunk(0, "a", choice=-1)]) == []


def test_text_without_tokens_and_without_an_end_is_for_the_log_to_tell() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "a"))
    held_back = Chunk(choice=0, position=1, token_ids=(), text="!")
    assert order.is_next(held_back) is None
    (found,) = order.missing([chunk(0, "a"), held_back])
    assert found.text == "!"
    assert order.missing([chunk(0, "a"), held_back]) == []


def test_what_is_missing_comes_as_one_chunk_with_its_end() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "ab"))
    (found,) = order.missing([chunk(0, "ab"), chunk(2, "cd"), chunk(4, "e", finish=True)])
    assert (found.position, found.text, found.token_ids) == (2, "cde", (99, 100, 101))
    assert found.finish_reason is FinishReason.STOP
    assert order.is_complete


def test_a_log_with_other_borders_gives_the_exact_rest() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "abc"))
    (found,) = order.missing([chunk(0, "ab"), chunk(2, "cde")])
    assert found.text == "de"


def test_a_log_that_is_being_rebuilt_is_waited_for() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "abc"))
    assert order.missing([chunk(0, "a")]) == []
    assert order.missing([chunk(1, "bcd")]) == []


def test_a_log_with_other_tokens_is_a_contradiction() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "abc"))
    with pytest.raises(ContradictingLog):
        order.missing([chunk(0, "abX"), chunk(3, "d")])


def test_logprobs_of_the_rest_are_the_rest_of_the_logprobs() -> None:
    def with_logprobs(position: int, text: str) -> Chunk:
        logprobs = tuple(TokenLogprob(token_id=ord(one), text=one, logprob=-1.0) for one in text)
        return Chunk(
            choice=0,
            position=position,
            token_ids=tuple(ord(one) for one in text),
            text=text,
            logprobs=logprobs,
        )

    order = StreamOrder(1)
    deliver(order, with_logprobs(0, "ab"))
    (found,) = order.missing([with_logprobs(0, "a"), with_logprobs(1, "bcd")])
    assert found.logprobs is not None
    assert [logprob.text for logprob in found.logprobs] == ["c", "d"]


def test_the_tail_of_a_result_is_cut_where_the_client_is() -> None:
    order = StreamOrder(1)
    deliver(order, chunk(0, "ab"))
    found = order.missing_text(0, "abcd", FinishReason.LENGTH)
    assert found is not None
    assert (found.text, found.finish_reason) == ("cd", FinishReason.LENGTH)
    assert order.missing_text(0, "abcd", FinishReason.LENGTH) is None


def test_positions_carry_a_stream_over_to_another_gateway() -> None:
    before = StreamOrder(2)
    deliver(before, chunk(0, "ab"), chunk(0, "x", choice=1, finish=True))
    after = StreamOrder(2, before.positions())
    log = [chunk(0, "ab"), chunk(2, "c"), chunk(0, "x", choice=1, finish=True)]
    assert [found.text for found in after.missing(log)] == ["c"]


def test_positions_of_choices_that_do_not_exist_are_ignored() -> None:
    order = StreamOrder(1, [StreamPosition(choice=7, num_tokens=1, num_characters=1, digest=1)])
    assert order.positions()[0].num_tokens == 0


def test_the_delivered_prefix_of_a_log_is_what_a_client_has() -> None:
    position = StreamPosition(choice=1, num_tokens=3, num_characters=3, digest=0)
    prefix = delivered_prefix([chunk(0, "zz"), chunk(0, "ab", choice=1), chunk(2, "cd", choice=1)], position)
    assert (prefix.choice, prefix.text, prefix.token_ids) == (1, "abc", (97, 98, 99))
    assert prefix.finish_reason is None


@given(
    text=st.text(alphabet="abcdef", min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 29), max_size=8),
    other_cuts=st.lists(st.integers(1, 29), max_size=8),
    events=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=40),
)
def test_whatever_arrives_in_whatever_order_the_client_has_the_text_once(
    text: str, cuts: list[int], other_cuts: list[int], events: list[tuple[bool, int]]
) -> None:
    def cut(borders: list[int]) -> list[Chunk]:
        edges = [0, *sorted({border for border in borders if border < len(text)}), len(text)]
        return [chunk(start, text[start:end], finish=end == len(text)) for start, end in itertools.pairwise(edges)]

    live, log = cut(cuts), cut(other_cuts)
    order, received = StreamOrder(1), ""
    for is_log, number in events:
        if is_log:
            received += "".join(found.text for found in order.missing(log[: number % (len(log) + 1)]))
        else:
            one = live[number % len(live)]
            if order.is_next(one):
                order.delivered(one)
                received += one.text
        assert text.startswith(received)
    received += "".join(found.text for found in order.missing(log))
    assert received == text
    assert order.is_complete


def test_the_scores_of_an_echoed_prompt_come_with_the_beginning_and_never_again() -> None:
    scores = (TokenLogprob(token_id=1, text="x", logprob=None),)
    log = [replace(chunk(0, "ab"), prompt_logprobs=scores), chunk(2, "c")]
    from_nothing = StreamOrder(1)
    (whole,) = from_nothing.missing(log)
    assert whole.prompt_logprobs == scores
    further = StreamOrder(1)
    deliver(further, log[0])
    (rest,) = further.missing(log)
    assert (rest.text, rest.prompt_logprobs) == ("c", None)
    assert delivered_prefix(log, further.position(0)).prompt_logprobs == scores
