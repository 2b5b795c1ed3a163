"""Prompts become tokens within the engine's limits, and every refusal names its field."""

from typing import Any

import pytest

from services.worker.prompt_reading import EngineLimits, PromptReader
from services.worker.tokens_only import TokensOnly
from services.worker.work import Work
from shared.contracts.errors import InvalidRequest, PromptTooLong, RequestError, UnknownModel
from shared.contracts.requests import ChatMessage
from tests.property.services.worker.test_resume_from_any_cut import make_work
from tests.unit.services.worker.path_harness import TOKENIZER

LIMITS = EngineLimits(models=frozenset({"m"}), max_model_tokens=50, vocabulary_size=257, max_choices=4)
READER = PromptReader(TOKENIZER, lambda: LIMITS)


async def refusal(body: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await READER.read(make_work(body))
    return caught.value


async def read(body: dict[str, Any]) -> tuple[Work, int]:
    work = make_work(body)
    work.prompts = None
    return work, await READER.read(work)


async def test_a_text_prompt_becomes_tokens() -> None:
    work, max_tokens = await read({"prompt": "abc", "max_tokens": 7})
    assert work.prompts == [TOKENIZER.encode("abc")]
    assert max_tokens == 7


async def test_without_max_tokens_the_rest_of_the_context_is_free() -> None:
    work, max_tokens = await read({"messages": [{"role": "user", "content": "hi"}]})
    assert work.prompts is not None
    assert max_tokens == 50 - len(work.prompts[0])


async def test_prompts_of_token_ids_are_taken_as_they_are() -> None:
    work, _ = await read({"prompt": [[1, 2], [3]], "max_tokens": 1})
    assert work.prompts == [[1, 2], [3]]


async def test_messages_go_through_the_chat_template() -> None:
    work, _ = await read({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    assert work.prompts == [TOKENIZER.encode_chat((ChatMessage(role="user", content="hi"),))]


async def test_a_prompt_is_tokenized_once_however_often_it_is_claimed() -> None:
    work, _ = await read({"prompt": "abc", "max_tokens": 1})
    before = work.prompts
    await READER.read(work)
    assert work.prompts is before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"prompt": "text"}, "prompt"),
        ({"prompt": [1], "stop": "x"}, "stop"),
        ({"prompt": [1], "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_without_a_tokenizer_what_needs_text_is_refused_by_field(body: dict[str, Any], field: str) -> None:
    reader = PromptReader(TokensOnly((2,)), lambda: LIMITS)
    with pytest.raises(InvalidRequest, match=f"{field}: the model has no tokenizer") as caught:
        await reader.read(make_work({**body, "max_tokens": 1}))
    assert caught.value.param == field
    work = make_work({"prompt": [[1, 2], [3]], "max_tokens": 1})
    work.prompts = None
    await reader.read(work)
    assert work.prompts == [[1, 2], [3]]


async def test_an_unknown_model_is_named() -> None:
    error = await refusal({"prompt": "a", "model": "other"})
    assert isinstance(error, UnknownModel)
    assert error.param == "model"
    assert "other" in error.message


async def test_a_prompt_that_leaves_no_room_is_too_long() -> None:
    work = make_work({"prompt": "x" * 50, "max_tokens": 1})
    with pytest.raises(PromptTooLong, match="50 tokens in the prompt and up to 1"):
        await READER.read(work)


async def test_a_prompt_that_just_fits_is_taken() -> None:
    _, max_tokens = await read({"prompt": "x" * 49, "max_tokens": 1})
    assert max_tokens == 1


async def test_a_monstrous_prompt_is_refused_without_being_tokenized() -> None:
    work = make_work({"prompt": "x", "max_tokens": 1})
    object.__setattr__(work.request.prompts[0], "text", "x" * 5_000)  # type: ignore[union-attr]
    work.prompts = None
    with pytest.raises(PromptTooLong, match="characters"):
        await READER.read(work)
    assert work.prompts is None


async def test_a_long_prompt_is_tokenized_in_a_thread_to_the_same_tokens() -> None:
    wide = EngineLimits(models=frozenset(), max_model_tokens=9_000, vocabulary_size=257, max_choices=4)
    work = make_work({"prompt": "y" * 5_000, "max_tokens": 1})
    work.prompts = None
    await PromptReader(TOKENIZER, lambda: wide).read(work)
    assert work.prompts == [TOKENIZER.encode("y" * 5_000)]


@pytest.mark.parametrize("token_id", [257, 100_000])
async def test_a_token_id_outside_the_vocabulary_is_named(token_id: int) -> None:
    work = make_work({"prompt": "x", "max_tokens": 1})
    object.__setattr__(work.request.prompts[0], "text", None)  # type: ignore[union-attr]
    object.__setattr__(work.request.prompts[0], "token_ids", (1, token_id))  # type: ignore[union-attr]
    work.prompts = None
    with pytest.raises(InvalidRequest, match=str(token_id)) as caught:
        await READER.read(work)
    assert caught.value.param == "prompt"


async def test_more_choices_than_can_run_at_once_are_refused() -> None:
    assert (await refusal({"prompt": "a", "n": 5, "max_tokens": 1})).param == "n"
    assert (await refusal({"prompt": ["a"] * 5, "max_tokens": 1})).param == "prompt"
