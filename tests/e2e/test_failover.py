"""Killing things in the middle of a stream: the client sees a pause, then the rest."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable

import openai
import pytest

from services.cli.embedded.stack import EmbeddedStack
from tests.fixtures.stack import TINY, engine_process_of, killer_of_the_busiest

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

BODY = {
    "model": TINY,
    "messages": [{"role": "user", "content": "Tell me a long story about rivers."}],
    "max_tokens": 900,
    "temperature": 0.8,
    "seed": 11,
    "stream": True,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture
def client(whole_stack: EmbeddedStack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{whole_stack.http_url}/v1", api_key="none", max_retries=0, timeout=120)


async def pieces(client: openai.AsyncOpenAI) -> AsyncIterator[str]:
    async for chunk in await client.chat.completions.create(**BODY):  # type: ignore[call-overload]
        for choice in chunk.choices:
            yield choice.delta.content or ""


async def text_with_a_fault(client: openai.AsyncOpenAI, fault: Callable[[], None]) -> str:
    """The streamed text; `fault` strikes after the twentieth piece."""
    text = []
    async for piece in pieces(client):
        text.append(piece)
        if len(text) == 20:
            fault()
    assert len(text) > 20, "the stream was over before the fault struck"
    return "".join(text)


async def expected_text(client: openai.AsyncOpenAI) -> str:
    return "".join([piece async for piece in pieces(client)])


async def test_a_killed_engine_process_leaves_no_gap_and_no_repeat(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    expected = await expected_text(client)
    shells = [worker.pid for worker in whole_stack.workers]

    def kill_both_engines() -> None:
        for worker in whole_stack.workers:
            engine_process_of(worker).kill()

    assert await text_with_a_fault(client, kill_both_engines) == expected
    assert [worker.pid for worker in whole_stack.workers] == shells, "a shell died with its engine"


async def test_a_killed_worker_hands_its_stream_to_another(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    expected = await expected_text(client)
    kill = await killer_of_the_busiest(whole_stack)
    pids = [worker.pid for worker in whole_stack.workers]
    assert await text_with_a_fault(client, kill) == expected
    assert [worker.pid for worker in whole_stack.workers] != pids


async def test_n_choices_held_to_a_grammar_go_on_where_their_engine_died(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    """The matchers of the new engine are advanced over the logged tokens."""
    schema = {"type": "array", "items": {"enum": ["north", "south"]}, "minItems": 60, "maxItems": 60}
    body = {
        **BODY,
        "n": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "gates", "schema": schema}},
    }

    async def texts(fault: Callable[[], None] | None = None) -> list[str]:
        found, num_pieces = ["", ""], 0
        async for chunk in await client.chat.completions.create(**body):  # type: ignore[call-overload]
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
                num_pieces += 1
                if num_pieces == 20 and fault is not None:
                    fault()
        return found

    def kill_both_engines() -> None:
        for worker in whole_stack.workers:
            engine_process_of(worker).kill()

    expected = await texts()
    assert await texts(kill_both_engines) == expected
    assert [len(json.loads(text)) for text in expected] == [60, 60]


async def test_a_killed_supervisor_changes_nothing_for_a_stream(
    whole_stack: EmbeddedStack, client: openai.AsyncOpenAI
) -> None:
    expected = await expected_text(client)
    supervisor = whole_stack.service("supervisor-0")

    def kill_it() -> None:
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)

    assert await text_with_a_fault(client, kill_it) == expected
    async with asyncio.timeout(60):
        while supervisor.pid is None:
            await asyncio.sleep(0.05)


async def test_an_engine_whose_shell_is_gone_ends_by_itself(whole_stack: EmbeddedStack) -> None:
    worker = whole_stack.workers[0]
    engine = engine_process_of(worker)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        while engine.is_running() and engine.status() != "zombie":
            await asyncio.sleep(0.05)
