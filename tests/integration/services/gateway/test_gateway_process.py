"""`python -P -m services.gateway` as a process: starts from the environment, drains on SIGTERM, exits 0."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.embedded.ports import free_port
from shared.contracts.requests import Lane
from shared.contracts.topics import topic_specifications
from shared.ledger.ledger import Ledger
from shared.messaging.admin import ensure_topics
from shared.messaging.broker import control_broker
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from tests.fakes.served_gateway import HEARTBEAT

ROOT = Path(__file__).parents[4]
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def environment(kafka: KafkaSettings, redis: RedisSettings, **gateway: object) -> dict[str, str]:
    ours = {
        "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "PENSTOCK_KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "PENSTOCK_KAFKA_GROUP_PREFIX": kafka.group_prefix,
        "PENSTOCK_REDIS_URL": redis.url,
        "PENSTOCK_REDIS_KEY_PREFIX": redis.key_prefix,
        "PENSTOCK_GATEWAY_HOST": "127.0.0.1",
    } | {f"PENSTOCK_GATEWAY_{name.upper()}": str(value) for name, value in gateway.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return kept | ours | {"PYTHONPATH": str(ROOT)}


async def start(variables: dict[str, str]) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "services.gateway",
        env=variables,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def gateway_process(variables: dict[str, str]) -> AsyncIterator[Process]:
    process = await start(variables)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def passing_on(port: int, address: str) -> AsyncIterator[None]:
    """A server that passes bytes on to `address`: for clients that ask it where the brokers are."""
    host, _, its_port = address.partition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(host, int(its_port))
            await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(meet, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def eventually(condition: Callable[[], Any], *, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_sigterm_ends_an_open_stream_with_a_note_exits_0_and_cancels_nothing(
    kafka_settings: KafkaSettings, redis_settings: RedisSettings
) -> None:
    names = kafka_settings.topic_names
    await ensure_topics(kafka_settings, topic_specifications(names, pools=("default",), request_partitions=2))
    port = free_port()
    variables = environment(kafka_settings, redis_settings, port=port, drain_seconds=0.5, first_event_seconds=0.3)
    partitions = ((names.requests("default", Lane.INTERACTIVE), 0),)
    async with (
        gateway_process(variables) as process,
        control_broker(kafka_settings, client_id="beats") as beats,
        Ledger(redis_settings) as ledger,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):

        async def is_ready() -> bool:
            await beats.publish_heartbeat(replace(HEARTBEAT, partitions=partitions))
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(is_ready)
        async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
            process.send_signal(signal.SIGTERM)
            text = (await response.aread()).decode()
            request_id = response.headers["x-request-id"]
        _, errors = await asyncio.wait_for(process.communicate(), 15)
        record = await ledger.describe(request_id)  # type: ignore[arg-type]
    assert process.returncode == 0, errors.decode()
    assert f"/v1/requests/{request_id}/stream" in text
    assert text.endswith("data: [DONE]\n\n")
    assert record is not None
    assert record.cancel_reason is None
    assert b"Traceback" not in errors


async def test_a_misspelt_setting_stops_the_start_with_the_right_name(
    kafka_settings: KafkaSettings, redis_settings: RedisSettings
) -> None:
    process = await start(environment(kafka_settings, redis_settings, prot=8000))
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert b"did you mean PENSTOCK_GATEWAY_PORT" in errors


async def test_a_gateway_that_starts_before_kafka_waits_for_it_and_becomes_ready(
    kafka_settings: KafkaSettings, redis_settings: RedisSettings
) -> None:
    """Kafka's address answers nobody at first; then somebody passes on what is said to it."""
    names = kafka_settings.topic_names
    await ensure_topics(kafka_settings, topic_specifications(names, pools=("default",), request_partitions=1))
    topic = names.requests("default", Lane.INTERACTIVE)
    kafka_port, port = free_port(), free_port()
    later = kafka_settings.model_copy(update={"bootstrap_servers": f"127.0.0.1:{kafka_port}"})
    async with (
        gateway_process(environment(later, redis_settings, port=port)) as process,
        control_broker(kafka_settings, client_id="beats") as beats,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):

        async def problems() -> set[str] | None:
            await beats.publish_heartbeat(replace(HEARTBEAT, partitions=((topic, 0),)))
            try:
                answer = await client.get("/readyz")
            except httpx.TransportError:
                return None
            return set() if answer.status_code == 200 else set(answer.json()["problems"])

        async def is_up_and_deaf() -> bool:
            return "heartbeats" in (await problems() or ())

        async def is_ready() -> bool:
            return await problems() == set()

        await eventually(is_up_and_deaf, seconds=60)
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code in (404, 503)
        async with passing_on(kafka_port, kafka_settings.bootstrap_servers):
            await eventually(is_ready, seconds=60)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
