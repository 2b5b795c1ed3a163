import json
from pathlib import Path

import pytest

from shared.contracts.errors import InvalidRequest
from shared.contracts.requests import ChatMessage
from shared.contracts.tools import Tool
from shared.tokenization.tokenizer import Tokenizer
from shared.tokenization.tokenizer_error import TokenizerError, TokenizerMissing
from tests.fixtures.tiny_tokenizers import (
    CHATML,
    begin_with,
    byte_level_tokenizer,
    metaspace_tokenizer,
    write_tokenizer,
)

HI = [ChatMessage(role="user", content="hello")]


def test_text_survives_the_way_to_tokens_and_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path))
    for text in ("hello world", "你好 🤖", "a\n\nb  c", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_directory_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(TokenizerMissing) as caught:
        Tokenizer.from_directory(tmp_path)
    assert caught.value.file == tmp_path / "tokenizer.json"


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"type": "Sorcery"}}'])
def test_a_damaged_tokenizer_is_an_error_and_not_a_missing_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_directory(tmp_path)
    assert not isinstance(caught.value, TokenizerMissing)


def test_a_damaged_neighbour_file_is_named(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"generation_config\.json"):
        Tokenizer.from_directory(tmp_path)


def test_padding_and_truncation_of_the_file_are_off(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, backend))
    assert len(tokenizer.encode("abcdefgh")) == 8


def test_a_prompt_begins_as_the_post_processor_says(tmp_path: Path) -> None:
    backend = begin_with(byte_level_tokenizer(), "<|begin|>")
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, backend))
    begin = backend.token_to_id("<|begin|>")
    assert tokenizer.encode_prompt("a") == [begin, *tokenizer.encode("a")]
    assert begin not in tokenizer.encode("a")


@pytest.mark.parametrize(("wanted", "num_begins"), [(True, 1), (False, 0)])
def test_a_prompt_begins_as_the_config_says(tmp_path: Path, wanted: bool, num_begins: int) -> None:
    config = {"bos_token": {"content": "<|begin|>"}, "add_bos_token": wanted}
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, config=config))
    begin = byte_level_tokenizer().token_to_id("<|begin|>")
    assert tokenizer.encode_prompt("a") == [begin] * num_begins + tokenizer.encode("a")


def test_a_beginning_is_not_put_twice(tmp_path: Path) -> None:
    backend = begin_with(byte_level_tokenizer(), "<|begin|>")
    config = {"bos_token": "<|begin|>", "add_bos_token": True}
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, backend, config=config))
    assert tokenizer.encode_prompt("a").count(backend.token_to_id("<|begin|>")) == 1


def test_a_chat_is_rendered_and_its_special_tokens_are_recognised(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, config={"chat_template": CHATML}))
    assert tokenizer.has_chat_template
    assert tokenizer.chat_prompt(HI) == "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    start = byte_level_tokenizer().token_to_id("<|start|>")
    assert tokenizer.encode_chat(HI).count(start) == 2


def test_a_chat_without_a_template_is_the_callers_error(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path))
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.encode_chat(HI)
    assert caught.value.param == "messages"


def test_a_template_file_wins_over_the_config(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, config={"chat_template": "from config"})
    (tmp_path / "chat_template.jinja").write_text("from file")
    assert Tokenizer.from_directory(tmp_path).chat_prompt(HI) == "from file"


def test_of_several_templates_the_default_is_taken_and_with_tools_the_one_for_them(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "{{ tools[0].function.name }}"}, {"name": "default", "template": "plain"}]
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, config={"chat_template": named}))
    assert tokenizer.chat_prompt(HI) == "plain"
    assert tokenizer.chat_prompt(HI, [Tool(name="open_gate")]) == "open_gate"
    assert tokenizer.tool_template_source == named[0]["template"]


def test_a_template_for_tools_may_be_a_file_beside_the_other(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].function.name }}")
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.chat_prompt(HI) == "plain"
    assert tokenizer.chat_prompt(HI, [Tool(name="open_gate")]) == "open_gate"


@pytest.mark.parametrize("template", ["{% for %}", 7])
def test_a_template_that_is_none_is_refused_at_load(tmp_path: Path, template: object) -> None:
    write_tokenizer(tmp_path, config={"chat_template": template})
    with pytest.raises(TokenizerError, match="chat_template"):
        Tokenizer.from_directory(tmp_path)


def test_the_vocabulary_counts_added_tokens(tmp_path: Path) -> None:
    assert Tokenizer.from_directory(write_tokenizer(tmp_path)).vocabulary_size == 256 + 7 + 4


@pytest.mark.parametrize("backend", [byte_level_tokenizer, metaspace_tokenizer])
def test_single_tokens_can_be_shown(tmp_path: Path, backend) -> None:
    built = backend()
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path, built))
    special = "<|end|>" if built.token_to_id("<|end|>") else "</s>"
    assert tokenizer.token_text(built.token_to_id("he")) == "he"
    assert tokenizer.token_text(built.token_to_id(special)) == special
    assert tokenizer.token_text(100_000) == ""


def test_a_part_of_a_character_is_shown_as_a_replacement(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_tokenizer(tmp_path))
    first = tokenizer.encode("你")[0]
    assert tokenizer.token_text(first) == "\ufffd"


def test_only_byte_level_tokenizers_have_a_byte_table(tmp_path: Path) -> None:
    assert Tokenizer.from_directory(write_tokenizer(tmp_path)).bytes_of is not None
    assert Tokenizer.from_directory(write_tokenizer(tmp_path, metaspace_tokenizer())).bytes_of is None


def test_ends_of_text_are_read_from_all_files(tmp_path: Path) -> None:
    write_tokenizer(
        tmp_path, config={"eos_token": "<|end|>"}, generation={"eos_token_id": [3, 5]}, model={"eos_token_id": 9}
    )
    end = byte_level_tokenizer().token_to_id("<|end|>")
    assert Tokenizer.from_directory(tmp_path).eos_token_ids == (3, 5, end)


def test_a_neighbour_file_must_be_an_object(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(TokenizerError, match="must be a JSON object"):
        Tokenizer.from_directory(tmp_path)
