"""The incremental text against a full decode, and against itself with other borders between pushes."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import metaspace_tokenizer, write_tokenizer

NUM_TOKENS = 267
STOPS = st.lists(st.text("ab.\n é你", min_size=1, max_size=4), min_size=1, max_size=4)
TEXTS = st.text(st.sampled_from("ab.\n é你🤖the"), max_size=30)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_directory(write_tokenizer(tmp_path_factory.mktemp("byte_level")))


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("metaspace")
    return Tokenizer.from_directory(write_tokenizer(directory, metaspace_tokenizer()))


def said(
    tokenizer: Tokenizer, token_ids: list[int], borders: list[int], stop: tuple[str, ...] = ()
) -> tuple[str, str | None, int]:
    detokenizer = IncrementalDetokenizer(tokenizer, stop)
    places = sorted({0, len(token_ids), *(border % (len(token_ids) + 1) for border in borders)})
    text = "".join(detokenizer.push(token_ids[begin:end]) for begin, end in itertools.pairwise(places))
    return text + detokenizer.finish(), detokenizer.stopped, detokenizer.num_tokens


def expected_cut(text: str, stop: tuple[str, ...]) -> str:
    """By trying every end of the text: the first at which any stop string is complete."""
    for end in range(1, len(text) + 1):
        complete = [found for found in stop if text[:end].endswith(found)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(token_ids=st.lists(st.integers(0, NUM_TOKENS - 1), max_size=60), borders=st.lists(st.integers(0, 60)))
@settings(max_examples=400, deadline=None)
def test_any_tokens_give_the_full_decode(byte_level: Tokenizer, token_ids: list[int], borders: list[int]) -> None:
    text, _, num_tokens = said(byte_level, token_ids, borders)
    assert text == byte_level.decode(token_ids)
    assert num_tokens == len(token_ids)


@given(text=st.text(max_size=40), borders=st.lists(st.integers(0, 200)))
@settings(max_examples=300, deadline=None)
def test_the_window_gives_the_full_decode_of_text(metaspace: Tokenizer, text: str, borders: list[int]) -> None:
    token_ids = metaspace.encode(text)
    assert said(metaspace, token_ids, borders)[0] == metaspace.decode(token_ids)


@given(
    token_ids=st.lists(st.integers(0, NUM_TOKENS - 1), max_size=40),
    one=st.lists(st.integers(0, 40)),
    other=st.lists(st.integers(0, 40)),
    stop=STOPS,
)
@settings(max_examples=300, deadline=None)
def test_borders_between_pushes_change_nothing(
    byte_level: Tokenizer, metaspace: Tokenizer, token_ids: list[int], one: list[int], other: list[int], stop: list[str]
) -> None:
    for tokenizer in (byte_level, metaspace):
        assert said(tokenizer, token_ids, one, tuple(stop)) == said(tokenizer, token_ids, other, tuple(stop))


@given(text=TEXTS, stop=STOPS, borders=st.lists(st.integers(0, 100)))
@settings(max_examples=500, deadline=None)
def test_the_first_complete_stop_string_cuts(
    byte_level: Tokenizer, text: str, stop: list[str], borders: list[int]
) -> None:
    found, stopped, _ = said(byte_level, byte_level.encode(text), borders, tuple(stop))
    assert found == expected_cut(text, tuple(stop))
    assert (stopped is not None) is any(candidate in text for candidate in stop)


@given(text=TEXTS, stop=STOPS)
@settings(max_examples=300, deadline=None)
def test_nothing_said_is_taken_back_and_no_more_is_held_than_a_stop_string(
    byte_level: Tokenizer, text: str, stop: list[str]
) -> None:
    whole = expected_cut(text, tuple(stop))
    detokenizer = IncrementalDetokenizer(byte_level, tuple(stop))
    shown = ""
    token_ids = byte_level.encode(text)
    for num_pushed, token_id in enumerate(token_ids, start=1):
        shown += detokenizer.push([token_id])
        assert whole.startswith(shown)
        complete = byte_level.decode(token_ids[:num_pushed]).rstrip("\ufffd")
        if detokenizer.stopped is None:
            assert len(complete) - len(shown) < max(map(len, stop))
