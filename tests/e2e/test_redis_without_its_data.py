"""Redis is killed and comes back empty: progress may be lost, requests may not."""

import asyncio
import shutil
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

BODY = {
    "model": TINY,
    "messages": [{"role": "user", "content": "Tell me a long story about lakes."}],
    "max_tokens": 700,
    "temperature": 0.8,
    "seed": 12,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture
def client(whole_stack: EmbeddedStack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{whole_stack.http_url}/v1", api_key="none", max_retries=0, timeout=120)


async def pieces(client: openai.AsyncOpenAI, seed: int) -> AsyncIterator[str]:
    async for chunk in await client.chat.completions.create(**{**BODY, "seed": seed}):  # type: ignore[call-overload]
        for choice in chunk.choices:
            yield choice.delta.content or ""


async def text_of(client: openai.AsyncOpenAI, seed: int, begun: asyncio.Event | None = None) -> str:
    text = []
    async for piece in pieces(client, seed):
        text.append(piece)
        if len(text) == 20 and begun is not None:
            begun.set()
    return "".join(text)


def restart_empty(stack: EmbeddedStack) -> None:
    redis = stack.redis_server
    assert redis is not None
    redis.kill()
    shutil.rmtree(stack.plan.data_dir / "redis" / "appendonlydir")
    redis.start()


async def test_streams_go_on_and_what_was_answered_can_still_be_read(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI, topics: Topics
) -> None:
    expected = [await text_of(client, seed) for seed in (1, 2)]
    reader = topics.reader()
    async with httpx.AsyncClient(base_url=whole_stack.http_url, timeout=60) as http:
        posted = {"model": TINY, "prompt": "a river", "max_tokens": 5}
        key = {"Idempotency-Key": "before the loss"}
        before = await http.post("/v1/completions", json=posted, headers=key)
        begun = [asyncio.Event(), asyncio.Event()]
        streams = [asyncio.create_task(text_of(client, seed + 1, begun[seed])) for seed in (0, 1)]
        await asyncio.gather(*(event.wait() for event in begun))
        restart_empty(whole_stack)
        receipts = topics.post({"prompt": "posted into the loss", "max_tokens": 5})
        assert await asyncio.gather(*streams) == expected
        answers = await asyncio.to_thread(topics.answers, reader, receipts)
        assert [len(found) for found in answers.values()] == [1]
        again = await http.post("/v1/completions", json=posted, headers=key)
        assert again.json() == before.json()
        status = await http.get(f"/v1/requests/{before.headers['x-request-id']}")
        assert status.json()["result"] == before.json()
