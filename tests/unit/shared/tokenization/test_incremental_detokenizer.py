from pathlib import Path

import pytest

from shared.tokenization.incremental_detokenizer import IncrementalDetokenizer, NoTextDetokenizer
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer, write_tokenizer


@pytest.fixture
def byte_level(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_directory(write_tokenizer(tmp_path))


@pytest.fixture
def metaspace(tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_directory(write_tokenizer(tmp_path, metaspace_tokenizer()))


def test_a_character_is_said_when_it_is_whole(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    said = [detokenizer.push([token_id]) for token_id in byte_level.encode("a🤖b")]
    assert said == ["a", "", "", "", "🤖", "b"]


def test_a_cut_character_is_said_as_a_replacement_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    assert detokenizer.push(byte_level.encode("a🤖")[:-1]) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_have_no_text(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    assert detokenizer.push(byte_level.encode("a<|end|>b<tool call>c")) == "ab<tool call>c"


def test_padding_rows_of_the_embedding_have_no_text(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    assert detokenizer.push([byte_level.vocabulary_size, 10_000_000]) == ""
    assert detokenizer.push(byte_level.encode("x")) == "x"


def test_a_stop_string_across_tokens_cuts_the_text(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level, ("END",))
    said = [detokenizer.push([token_id]) for token_id in byte_level.encode("oneENDtwo")]
    assert "".join(said) == "one"
    assert detokenizer.stopped == "END"
    assert detokenizer.finish() == ""


def test_tokens_after_the_stop_are_not_counted(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level, ("b",))
    assert detokenizer.push(byte_level.encode("abcd")) == "a"
    assert detokenizer.num_tokens == 2
    assert detokenizer.push(byte_level.encode("more")) == ""
    assert detokenizer.num_tokens == 2


def test_what_only_began_a_stop_string_is_said_at_the_end(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level, ("END",))
    assert detokenizer.push(byte_level.encode("xEN")) == "x"
    assert detokenizer.stopped is None
    assert detokenizer.finish() == "EN"


def test_a_stop_string_may_be_completed_by_the_end(byte_level: Tokenizer) -> None:
    """The replacement for a cut character is text too."""
    detokenizer = IncrementalDetokenizer(byte_level, ("\ufffd",))
    assert detokenizer.push(byte_level.encode("a🤖")[:-1]) == "a"
    assert detokenizer.finish() == ""
    assert detokenizer.stopped == "\ufffd"


def test_the_prompt_gives_context_but_no_text(metaspace: Tokenizer) -> None:
    prompt = metaspace.encode("the")
    token_ids = metaspace.encode(" a the cat")
    alone, after = IncrementalDetokenizer(metaspace), IncrementalDetokenizer(metaspace, (), prompt)
    assert alone.push(token_ids) + alone.finish() == "a the cat"
    assert after.push(token_ids) + after.finish() == " a the cat"


def test_bytes_join_to_characters_in_the_window(metaspace: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(metaspace)
    said = [detokenizer.push([token_id]) for token_id in metaspace.encode("a 你!")]
    assert [piece for piece in said if piece] == ["a", " ", "你", "!"]
    assert "\ufffd" not in "".join(said)


def test_broken_bytes_do_not_hold_the_window_for_ever(metaspace: Tokenizer) -> None:
    byte = byte_id(metaspace, 0xFF)
    detokenizer = IncrementalDetokenizer(metaspace)
    said = [detokenizer.push([byte]) for _ in range(40)]
    assert sum(map(len, said)) > 30
    assert len("".join(said) + detokenizer.finish()) == 40


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    return metaspace_tokenizer().token_to_id(f"<0x{byte:02X}>")


def test_work_after_the_end_is_our_bug(byte_level: Tokenizer) -> None:
    detokenizer = IncrementalDetokenizer(byte_level)
    detokenizer.finish()
    with pytest.raises(AssertionError):
        detokenizer.push([1])
    with pytest.raises(AssertionError):
        detokenizer.finish()


def test_without_a_tokenizer_there_is_no_text() -> None:
    detokenizer = NoTextDetokenizer()
    assert (detokenizer.push([1, 2]), detokenizer.finish(), detokenizer.stopped) == ("", "", None)


def test_the_byte_table_has_room_for_the_whole_vocabulary(byte_level: Tokenizer) -> None:
    assert byte_level.bytes_of is not None
    assert len(byte_level.bytes_of) == byte_level_tokenizer().get_vocab_size()
