"""The official openai client against the whole stack, unchanged, sync and async."""

import asyncio
from collections import Counter

import openai
import pytest

from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

QUESTION = [{"role": "user", "content": "Where does the water go?"}]


@pytest.fixture
def client(stack: EmbeddedStack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def sync_client(stack: EmbeddedStack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.http_url}/v1", api_key="none", max_retries=0, timeout=60)


async def streamed_text(client: openai.AsyncOpenAI, **body: object) -> str:
    text = []
    stream = await client.chat.completions.create(model=TINY, stream=True, **body)  # type: ignore[call-overload]
    async for chunk in stream:
        text.extend(choice.delta.content or "" for choice in chunk.choices)
    return "".join(text)


async def test_the_served_model_is_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [TINY]


async def test_a_chat_answer_has_openais_shape_and_counts_its_tokens(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=TINY, messages=QUESTION, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


async def test_a_stream_says_the_same_as_the_whole_answer(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model=TINY, messages=QUESTION, max_tokens=40, temperature=0)
    assert await streamed_text(client, messages=QUESTION, max_tokens=40, temperature=0) == (
        whole.choices[0].message.content
    )


async def test_a_stream_ends_with_its_usage_when_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=TINY, messages=QUESTION, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 5
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] in ("stop", "length")


async def test_a_seed_makes_sampling_repeatable_and_another_seed_differs(client: openai.AsyncOpenAI) -> None:
    body = {"messages": QUESTION, "max_tokens": 30, "temperature": 1.0}
    first, again, other = await asyncio.gather(
        streamed_text(client, seed=7, **body),
        streamed_text(client, seed=7, **body),
        streamed_text(client, seed=8, **body),
    )
    assert first == again
    assert first != other


async def test_n_gives_n_different_choices(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=TINY, messages=QUESTION, max_tokens=20, n=3, seed=1, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


async def test_text_stops_before_a_stop_string(client: openai.AsyncOpenAI) -> None:
    whole = await streamed_text(client, messages=QUESTION, max_tokens=60, temperature=0)
    stop = whole[20:23]
    cut = await client.chat.completions.create(model=TINY, messages=QUESTION, max_tokens=60, temperature=0, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


async def test_a_completion_takes_token_ids(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=TINY,
        prompt=[5, 6, 7, 8],
        max_tokens=6,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4
    assert len(answer.choices[0].token_ids) == 6  # type: ignore[attr-defined]


async def test_the_synchronous_client_works_too(sync_client: openai.OpenAI) -> None:
    def ask() -> tuple[str, str]:
        whole = sync_client.chat.completions.create(model=TINY, messages=QUESTION, max_tokens=16, temperature=0)
        stream = sync_client.chat.completions.create(
            model=TINY, messages=QUESTION, max_tokens=16, temperature=0, stream=True
        )
        parts = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
        return whole.choices[0].message.content or "", "".join(parts)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed
    assert whole


async def test_64_concurrent_streams_each_equal_their_solo_run(client: openai.AsyncOpenAI) -> None:
    """16 distinct requests, each alone first, then four of each at once, seeded and greedy mixed."""
    bodies = [
        {
            "messages": [{"role": "user", "content": f"Tell me about number {number}. " * (1 + number % 5)}],
            "max_tokens": 16 + number,
            "temperature": 0.0 if number % 2 else 0.9,
            "seed": number,
        }
        for number in range(16)
    ]
    alone = [await streamed_text(client, **body) for body in bodies]
    together = await asyncio.gather(*(streamed_text(client, **bodies[number % 16]) for number in range(64)))
    differing = Counter(number % 16 for number in range(64) if together[number] != alone[number % 16])
    assert differing == Counter()
    assert len(set(alone)) == 16


async def test_an_unknown_model_is_the_clients_own_not_found_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refusal:
        await client.chat.completions.create(model="no-such-model", messages=QUESTION)
    assert refusal.value.code == "model_not_found"
    assert refusal.value.param == "model"


async def test_a_prompt_beyond_the_context_is_refused_before_the_stream_starts(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        await client.chat.completions.create(
            model=TINY, messages=[{"role": "user", "content": "long " * 5000}], stream=True
        )
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.request_id
