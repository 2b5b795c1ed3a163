"""The gateway on a real Kafka and a real Redis, a scripted worker behind it, the official client in front of it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx
import openai
import pytest
from aiokafka import AIOKafkaConsumer

from services.gateway.application import build_gateway
from services.gateway.settings import GatewaySettings
from shared.contracts.events import FinishReason
from shared.contracts.requests import Lane
from shared.contracts.topics import topic_specifications
from shared.ledger.ledger import Ledger
from shared.messaging.admin import ensure_topics
from shared.messaging.broker import control_broker
from shared.messaging.records import SourceRecord, source_record
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from tests.fakes.scripted_worker import Job, ScriptedWorker
from tests.fakes.served_gateway import HEARTBEAT, serving, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

MESSAGES = [{"role": "user", "content": "hi"}]
WORDS = [f"word{number} " for number in range(40)]


@dataclass
class World:
    url: str
    ledger: Ledger
    worker: ScriptedWorker
    records: list[SourceRecord] = field(default_factory=list)
    is_automatic: bool = True

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)


@asynccontextmanager
async def running(*tasks: object) -> AsyncIterator[None]:
    started = [asyncio.ensure_future(task) for task in tasks]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        for task in started:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def world(kafka_settings: KafkaSettings, redis_settings: RedisSettings) -> AsyncIterator[World]:
    names = kafka_settings.topic_names
    await ensure_topics(kafka_settings, topic_specifications(names, pools=("default",), request_partitions=4))
    topic = names.requests("default", Lane.INTERACTIVE)
    application = build_gateway(
        GatewaySettings(grace_seconds=0.5, name="test"), kafka=kafka_settings, redis=redis_settings
    )
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka_settings.bootstrap_servers,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
    )
    async with (
        Ledger(redis_settings) as ledger,
        control_broker(kafka_settings, client_id="beats") as beats,
        serving(application) as url,
    ):
        await ledger.open_epoch(is_refilled=False)
        world = World(url, ledger, ScriptedWorker(ledger, names=names))
        await consumer.start()
        try:
            async with running(_work(world, consumer), _beat(beats, topic)):
                gateway = application.state.gateway
                await until(lambda: gateway.directory.models() and gateway.keyring.is_complete, seconds=20)
                yield world
        finally:
            await consumer.stop()


async def _beat(beats: object, topic: str) -> None:
    number = 0
    while True:
        number += 1
        partitions = tuple((topic, partition) for partition in range(4))
        await beats.publish_heartbeat(replace(HEARTBEAT, sequence_number=number, partitions=partitions))  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)


async def _work(world: World, consumer: AIOKafkaConsumer) -> None:
    async for message in consumer:
        record = source_record(message)
        world.records.append(record)
        if world.is_automatic:
            await world.worker.answer(record, *WORDS)


async def claimed(world: World) -> Job:
    await until(lambda: world.records, seconds=10)
    job = await world.worker.claim(world.records[-1])
    assert isinstance(job, Job)
    return job


async def test_the_async_client_gets_the_same_text_streamed_and_whole(world: World) -> None:
    client = world.client()
    whole = await client.chat.completions.create(model="tiny", messages=MESSAGES)  # type: ignore[arg-type]
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert whole.choices[0].message.content == "".join(WORDS)
    assert text == "".join(WORDS)


async def test_the_synchronous_client_streams_and_asks_for_models(world: World) -> None:
    answers: list[object] = []

    def ask() -> None:
        with openai.OpenAI(base_url=f"{world.url}/v1", api_key="any", max_retries=0) as client:
            answers.append([model.id for model in client.models.list()])
            stream = client.completions.create(
                model="tiny", prompt="once", stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
            answers.append("".join(chunk.choices[0].text for chunk in chunks if chunk.choices))
            answers.append(chunks[-1].usage)

    thread = threading.Thread(target=ask)
    thread.start()
    await until(lambda: not thread.is_alive(), seconds=20)
    models, text, usage = answers
    assert models == ["tiny"]
    assert text == "".join(WORDS)
    assert usage is not None


async def test_fifty_streams_at_once_are_each_complete_and_in_order(world: World) -> None:
    client = world.client()

    async def ask() -> str:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts = await asyncio.gather(*(ask() for _ in range(50)))
    assert set(texts) == {"".join(WORDS)}


async def test_a_client_that_hangs_up_ends_its_request_after_the_grace(world: World) -> None:
    world.is_automatic = False
    async with httpx.AsyncClient(base_url=world.url) as client:
        body = {"model": "tiny", "messages": MESSAGES, "stream": True}
        asked = asyncio.create_task(client.post("/v1/chat/completions", json=body, timeout=20))
        job = await claimed(world)
        await job.say("a")
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked

    async def is_cancelled() -> None:
        while True:
            record = await world.ledger.describe(job.envelope.request_id)
            if record is not None and record.cancel_reason:
                return
            await asyncio.sleep(0.05)

    await asyncio.wait_for(is_cancelled(), 10)
    assert (await job.say("b")).cancel_requested


async def test_a_stream_is_resumed_from_its_last_event_without_gap_or_repeat(world: World) -> None:
    world.is_automatic = False
    body = {"model": "tiny", "messages": MESSAGES, "stream": True}
    async with httpx.AsyncClient(base_url=world.url, timeout=20) as client:
        lines: list[str] = []

        async def ask() -> None:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    lines.append(line)
                    if line.startswith("id:"):
                        return

        asked = asyncio.create_task(ask())
        job = await claimed(world)
        await job.say("one ")
        await asked
        last_id = lines[-1].removeprefix("id: ")
        await job.say("two ")
        resumed = asyncio.create_task(
            client.get(f"/v1/requests/{job.envelope.request_id}/stream", headers={"last-event-id": last_id})
        )
        await job.say("three", finish=FinishReason.STOP)
        await job.complete()
        text = (await resumed).text
    assert '"content":"one ' not in text
    assert "two " in text
    assert "three" in text
    assert text.rstrip().endswith("data: [DONE]")


async def test_a_request_of_another_gateway_is_streamed_after_reading_its_record(
    world: World, kafka_settings: KafkaSettings, redis_settings: RedisSettings
) -> None:
    other = build_gateway(GatewaySettings(name="other"), kafka=kafka_settings, redis=redis_settings)
    body = {"model": "tiny", "messages": MESSAGES, "n": 2}
    async with httpx.AsyncClient(timeout=20) as client, serving(other) as other_url:
        answer = await client.post(f"{world.url}/v1/chat/completions", json=body)
        request_id = answer.headers["x-request-id"]
        stream = await client.get(f"{other_url}/v1/requests/{request_id}/stream")
    assert stream.status_code == 200
    assert stream.text.count('"finish_reason":"stop"') == 2
    assert stream.text.count('"role":"assistant"') == 2


async def test_ready_says_so(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.url) as client:
        response = await client.get("/readyz")
    assert response.json() == {"ready": True, "problems": {}}
