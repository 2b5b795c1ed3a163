"""Drafts through the platform: said by /v1/models, chosen by a request, and a stream that outlives a kill amid them."""

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY, killer_of_the_busiest

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

BODY = {
    "model": TINY,
    "messages": [{"role": "user", "content": "Tell me a long story about rivers."}],
    "max_tokens": 700,
    "temperature": 0.8,
    "seed": 12,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture
def client(whole_stack: EmbeddedStack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{whole_stack.http_url}/v1", api_key="none", max_retries=0, timeout=120)


async def streamed(
    client: openai.AsyncOpenAI, extra: dict[str, Any], fault: Callable[[], None] | None = None
) -> tuple[str, Any]:
    """Text and usage; `fault` strikes after the tenth piece."""
    text, num_pieces, usage = "", 0, None
    body = {**BODY, "extra_body": {"ignore_eos": True, **extra}}
    async for chunk in await client.chat.completions.create(**body):  # type: ignore[call-overload]
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            num_pieces += 1
            if num_pieces == 10 and fault is not None:
                fault()
    assert num_pieces > 10, "the stream was over before the fault struck"
    return text, usage


async def test_a_stream_goes_on_where_its_worker_was_killed_amid_drafts(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    expected, plain = await streamed(client, {"speculation": "none"})
    assert plain.completion_tokens_details is None
    prediction = {"prediction": {"type": "content", "content": expected}}
    pids = [worker.pid for worker in whole_stack.workers]
    text, usage = await streamed(client, prediction, await killer_of_the_busiest(whole_stack))
    assert [worker.pid for worker in whole_stack.workers] != pids
    assert text == expected
    # Counted since the failover: the worker that took over drafts, too.
    assert usage.completion_tokens_details.accepted_prediction_tokens > 0


async def test_a_request_chooses_its_method_and_the_pool_says_which_there_are(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    async with httpx.AsyncClient(base_url=whole_stack.http_url) as http:
        (model,) = (await http.get("/v1/models")).json()["data"]
    assert model["speculation"] == "none"
    assert model["speculation_methods"] == ["none", "prompt-lookup", "lookahead"]
    expected, _ = await streamed(client, {})
    text, usage = await streamed(client, {"speculation": "lookahead"})
    assert text == expected
    assert usage.completion_tokens_details.rejected_prediction_tokens > 0
    with pytest.raises(openai.BadRequestError, match="it has none, prompt-lookup, lookahead"):
        await streamed(client, {"speculation": "quantspec"})
