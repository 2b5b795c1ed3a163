from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from services.worker.engine.checkpoints.checkpoint_error import CheckpointError
from services.worker.engine.checkpoints.gguf_metadata import GgufMetadata, open_gguf
from services.worker.engine.checkpoints.gguf_tokenizer import build_tokenizer, generation_config, tokenizer_config
from tests.fixtures.tiny_gguf import tokens, write_tiny_gguf


def metadata(tmp_path: Path, **options: Any) -> GgufMetadata:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", **options)
    return GgufMetadata(file, open_gguf(file))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text).tokens


def test_ids_are_the_files_own(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(metadata(tmp_path))
    assert [tokenizer.id_to_token(token_id) for token_id in range(len(tokens()))] == tokens()
    assert tokenizer.get_vocab_size() == len(tokens())


def test_merges_are_applied_in_their_order(tmp_path: Path) -> None:
    assert pieces(build_tokenizer(metadata(tmp_path)), "hello well") == ["hello", "Ġw", "e", "ll"]


def test_control_tokens_are_special_and_user_tokens_are_plain(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(metadata(tmp_path))
    token_ids = tokenizer.encode("a<|im_end|><tool call>b").ids
    assert len(token_ids) == 4
    assert tokenizer.decode(token_ids) == "a<tool call>b"


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["Ċ", "Ċ", "1", "2"]),
        ("smollm", ["ĊĊ", "1", "2"]),
        ("llama-bpe", ["ĊĊ", "1", "2"]),
        ("qwen2", ["ĊĊ", "1", "2"]),
    ],
)
def test_text_is_cut_by_the_rule_that_the_file_names(tmp_path: Path, pre: str, expected: list[str]) -> None:
    assert pieces(build_tokenizer(metadata(tmp_path, pre=pre)), "\n\n12") == expected


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["Ġ12345", "Ġ'", "ll"]),
        ("smollm", ["Ġ", "1", "2", "3", "4", "5", "Ġ'", "ll"]),
        ("llama-bpe", ["Ġ", "123", "45", "Ġ'", "ll"]),
        ("qwen2", ["Ġ", "1", "2", "3", "4", "5", "Ġ'", "ll"]),
    ],
)
def test_numbers_are_cut_as_each_rule_says(tmp_path: Path, pre: str, expected: list[str]) -> None:
    tokenizer = build_tokenizer(metadata(tmp_path, pre=pre))
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(" 12345 'll")] == expected


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre"),
    ],
)
def test_a_rule_that_we_do_not_know_is_refused_by_name(tmp_path: Path, values: dict[str, Any], subject: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(metadata(tmp_path, values=values))
    assert caught.value.subject == subject


@pytest.mark.parametrize(("wanted", "expected"), [(True, ["<|im_start|>", "hello"]), (False, ["hello"])])
def test_a_beginning_of_text_is_put_only_where_the_file_wants_it(
    tmp_path: Path, wanted: bool, expected: list[str]
) -> None:
    tokenizer = build_tokenizer(metadata(tmp_path, values={"tokenizer.ggml.add_bos_token": wanted}))
    assert pieces(tokenizer, "hello") == expected


def test_the_tokenizers_config_names_special_tokens_and_template(tmp_path: Path) -> None:
    config = tokenizer_config(metadata(tmp_path))
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert config["chat_template"] == "{{ messages[0].content }}"
    assert config["model_max_length"] == 128
    assert "pad_token" not in config


def test_a_model_without_a_template_gets_none(tmp_path: Path) -> None:
    assert "chat_template" not in tokenizer_config(metadata(tmp_path, values={"tokenizer.chat_template": None}))


def test_the_end_of_a_turn_ends_a_text_too(tmp_path: Path) -> None:
    assert generation_config(metadata(tmp_path))["eos_token_id"] == 2
    both = metadata(tmp_path, values={"tokenizer.ggml.eot_token_id": 0})
    assert generation_config(both)["eos_token_id"] == [2, 0]
    same = metadata(tmp_path, values={"tokenizer.ggml.eot_token_id": 2})
    assert generation_config(same)["eos_token_id"] == 2
