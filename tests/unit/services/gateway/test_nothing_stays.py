"""What was answered, refused or left leaves nothing behind in a gateway, but the few shapes that it remembers."""

import asyncio

import pytest

from tests.fakes.served_gateway import ServedGateway, served_gateway, until
from tests.living_objects import objects_of_ours

PATH, CHAT = "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


async def a_visit_of_each_kind(served: ServedGateway) -> None:
    awaited = asyncio.create_task(served.client.post(PATH, json=CHAT))
    await served.worker.answer(await served.published(), "Hello")
    assert (await awaited).status_code == 200
    streamed = asyncio.create_task(served.client.post(PATH, json=STREAM))
    await served.worker.answer(await served.published(2), "Hello")
    assert (await streamed).text.endswith("data: [DONE]\n\n")
    assert (await served.client.post(PATH, json=CHAT | {"temperature": -1})).status_code == 400
    await leave_in_the_middle(served)
    served.producer.sent.clear()
    served.ledger.store.entries.clear()


async def leave_in_the_middle(served: ServedGateway) -> None:
    async def read_one_event() -> None:
        async with served.client.stream("POST", PATH, json=STREAM) as response:
            await anext(response.aiter_lines())

    reading = asyncio.create_task(read_one_event())
    job = await served.claimed(3)
    await job.say("H")
    await reading
    entry = served.ledger.store.entries[job.envelope.request_id]
    await until(lambda: entry.cancel is not None)


async def test_after_many_visits_a_gateway_holds_no_more_objects_than_after_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.gateway.stream_shapes._MOST_REMEMBERED", 3)
    async with served_gateway() as served:
        for _ in range(3):
            await a_visit_of_each_kind(served)
        before = objects_of_ours()
        for _ in range(8):
            await a_visit_of_each_kind(served)
        await until(lambda: objects_of_ours() == before)
