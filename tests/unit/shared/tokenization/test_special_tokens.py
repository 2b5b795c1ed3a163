from typing import Any

import pytest

from shared.tokenization.special_tokens import eos_token_ids, special_token_texts
from tests.fixtures.tiny_tokenizers import byte_level_tokenizer

BACKEND = byte_level_tokenizer()
END = BACKEND.token_to_id("<|end|>")


def ends(tokenizer: Any = None, generation: Any = None, model: Any = None) -> tuple[int, ...]:
    return eos_token_ids(
        BACKEND,
        tokenizer_config={} if tokenizer is None else {"eos_token": tokenizer},
        generation_config={} if generation is None else {"eos_token_id": generation},
        model_config={} if model is None else {"eos_token_id": model},
    )


def test_generation_config_decides() -> None:
    assert ends(generation=[7, 3], model=1) == (3, 7)


def test_config_decides_where_generation_config_is_silent() -> None:
    assert ends(model=1) == (1,)
    assert ends(generation=[], model=[2, 1]) == (1, 2)


@pytest.mark.parametrize("spelling", ["<|end|>", {"content": "<|end|>", "lstrip": False}])
def test_the_tokenizers_own_end_always_counts(spelling: object) -> None:
    assert ends(tokenizer=spelling) == (END,)
    assert ends(tokenizer=spelling, generation=3) == (3, END)
    assert ends(tokenizer=spelling, generation=END) == (END,)


def test_an_end_that_is_no_token_is_left_out() -> None:
    assert ends(tokenizer="<not there>", model=4) == (4,)


def test_a_model_may_have_no_end() -> None:
    assert ends() == ()


def test_truth_values_and_texts_are_no_ids() -> None:
    assert ends(generation=[True, "5", None], model=6) == (6,)


def test_special_tokens_come_by_field() -> None:
    config = {"bos_token": "a", "eos_token": {"content": "b"}, "pad_token": None, "name": "c", "unk_token": 5}
    assert special_token_texts(config) == {"bos_token": "a", "eos_token": "b"}
