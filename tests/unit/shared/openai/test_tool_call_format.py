"""The spelling of calls is the template's, as tokens where the vocabulary has them and shows them."""

from pathlib import Path

import pytest
from tokenizers import AddedToken

from shared.openai.tool_call_format import call_format_of
from shared.openai.tool_grammar import ToolCallFormat
from shared.tokenization.tokenizer import Tokenizer
from tests.fixtures.tiny_tokenizers import byte_level_tokenizer, write_tokenizer

TEMPLATE = "{{ tools }}<tool_call>"
TAGS = ("<tool_call>", "</tool_call>")


@pytest.mark.parametrize(
    ("tags", "is_special", "template", "expected"),
    [
        (TAGS, False, TEMPLATE, ToolCallFormat.HERMES_TOKENS),
        (TAGS, True, TEMPLATE, ToolCallFormat.JSON),
        (TAGS[:1], False, TEMPLATE, ToolCallFormat.JSON),
        ((), False, TEMPLATE, ToolCallFormat.HERMES),
        (TAGS, False, "{{ tools }}", ToolCallFormat.JSON),
    ],
)
def test_the_spelling_follows_from_template_and_vocabulary(
    tmp_path: Path, tags: tuple[str, ...], is_special: bool, template: str, expected: ToolCallFormat
) -> None:
    backend = byte_level_tokenizer()
    added = [AddedToken(tag, special=is_special, normalized=False) for tag in tags]
    if is_special:
        backend.add_special_tokens(added)
    else:
        backend.add_tokens(added)
    write_tokenizer(tmp_path, backend, config={"chat_template": template})
    assert call_format_of(Tokenizer.from_directory(tmp_path)) is expected


def test_without_a_template_the_call_is_the_whole_answer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path))
    assert call_format_of(tokenizer) is ToolCallFormat.JSON
