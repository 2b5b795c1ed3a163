import pytest
from tokenizers import pre_tokenizers

from shared.tokenization.byte_level import byte_table, is_byte_level, token_bytes
from tests.fixtures.tiny_tokenizers import byte_level_tokenizer


def test_the_alphabet_is_that_of_the_library_and_covers_every_byte() -> None:
    found = {token_bytes(character) for character in pre_tokenizers.ByteLevel.alphabet()}
    assert found == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize(
    ("token", "expected"),
    [("hello", b"hello"), ("Ġthe", b" the"), ("Ċ", b"\n"), ("ä½ł", "你".encode()), ("ÃŁ", "ß".encode())],
)
def test_tokens_stand_for_bytes(token: str, expected: bytes) -> None:
    assert token_bytes(token) == expected


def test_a_token_outside_the_alphabet_stands_for_itself() -> None:
    assert token_bytes("<tool call>") == b"<tool call>"
    assert token_bytes("你") == "你".encode()


def test_skipped_tokens_and_holes_have_no_bytes() -> None:
    assert byte_table({"a": 0, "b": 3, "c": 2}, {2}) == [b"a", b"", b"", b"b"]
    assert byte_table({}, set()) == []


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        ({"type": "ByteLevel"}, True),
        ({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]}, True),
        ({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, {"type": "Strip"}]}, False),
        ({"type": "Metaspace"}, False),
        (None, False),
    ],
)
def test_byte_level_decoding_is_recognised(decoder: object, expected: bool) -> None:
    assert is_byte_level({"decoder": decoder}) is expected


def test_each_token_decodes_to_its_bytes() -> None:
    backend = byte_level_tokenizer()
    table = byte_table(backend.get_vocab(with_added_tokens=True), set())
    for token_id, expected in enumerate(table):
        decoded = backend.decode([token_id], skip_special_tokens=False)
        assert decoded == expected.decode("utf-8", "replace"), token_id
