"""A flood over Kafka: the worker holds what it can, the rest stays in the topic, HTTP callers are told, it passes."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Message, Producer

from services.cli.embedded.plan import PoolPlan, StackPlan
from services.cli.embedded.stack import EmbeddedStack
from services.cli.foreign_clients.kafka_client import Receipt
from tests.fixtures.stack import Topics

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

RECORDS, SLOTS, HIGH_MARK = 300, 4, 12


def flooded_plan(directory: Path) -> StackPlan:
    """Some 13 requests a second: 4 places, 15 tokens, 20 ms a step."""
    environment = {
        "PENSTOCK_WORKER_NULL_STEP_MS": "20",
        "PENSTOCK_WORKER_MAX_RUNNING_REQUESTS": str(SLOTS),
        "PENSTOCK_WORKER_INTAKE_HIGH_MARK": str(HIGH_MARK),
    }
    pool = PoolPlan(served_model_name="null", environment=environment)
    return StackPlan(
        data_dir=directory,
        pools=(pool,),
        request_partitions=4,
        environment={"PENSTOCK_SLO_INTERACTIVE_FIRST_TOKEN_MS": "2000"},
    )


def post_in_a_hurry(topics: Topics, body: bytes) -> list[Receipt]:
    """Eight records behind the flood that want to be answered within a second."""
    receipts: list[Receipt] = []
    producer = Producer({"bootstrap.servers": topics.bootstrap_servers})
    deadline = str(round((time.time() + 1) * 1_000)).encode()

    def acknowledged(error: object, message: Message) -> None:
        assert error is None
        place = {"partition": int(message.partition() or 0), "offset": int(message.offset() or 0)}
        receipts.append(Receipt(topic=str(message.topic()), **place))

    for _ in range(8):
        headers = [("penstock-deadline-ms", deadline)]
        producer.produce(topics.requests, value=body, headers=headers, on_delivery=acknowledged)
    producer.flush(30)
    return receipts


async def only_worker(client: httpx.AsyncClient) -> dict[str, Any]:
    (worker,) = (await client.get("/fleet")).json()["workers"]
    found: dict[str, Any] = worker
    return found


async def test_a_flood_over_kafka_stays_in_kafka_and_http_callers_are_told_how_long_it_is(tmp_path: Path) -> None:
    body = {"prompt": "x", "max_tokens": 15, "ignore_eos": True}
    async with (
        EmbeddedStack(flooded_plan(tmp_path)) as stack,
        httpx.AsyncClient(base_url=stack.supervisor_url, timeout=10) as supervisor,
        httpx.AsyncClient(base_url=stack.http_url, timeout=60) as caller,
    ):
        await stack.wait_until_ready()
        topics = Topics(stack.addresses.kafka)
        reader = await asyncio.to_thread(topics.reader)
        receipts = await asyncio.to_thread(topics.post, *[body] * RECORDS)
        late = await asyncio.to_thread(post_in_a_hurry, topics, json.dumps(body).encode())

        seen: list[dict[str, Any]] = []
        asks: list[asyncio.Task[httpx.Response]] = []
        async with asyncio.timeout(90), asyncio.TaskGroup() as callers:
            while not any(worker["lag_records"] for worker in seen) or seen[-1]["lag_records"]:
                seen.append(await only_worker(supervisor))
                asks.append(callers.create_task(caller.post("/v1/completions", json={**body, "model": "null"})))
                await asyncio.sleep(0.2)
        answers = await asyncio.to_thread(topics.answers, reader, [*receipts, *late], timeout_seconds=60.0)
        reader.close()
        after = await caller.post("/v1/completions", json={**body, "model": "null"})

    in_hand = [worker["running_requests"] + worker["waiting_requests"] for worker in seen]
    assert max(in_hand) <= HIGH_MARK + SLOTS, "the worker holds what it can, not what there is"
    assert max(worker["lag_records"] for worker in seen) > RECORDS / 2, "the rest is in Kafka, and it says so"
    refusals = [response for response in (ask.result() for ask in asks) if response.status_code != 200]
    assert {response.status_code for response in refusals} == {503}
    assert {response.json()["error"]["code"] for response in refusals} == {"queue_full"}
    waits = [int(response.headers["retry-after-ms"]) for response in refusals]
    assert max(waits) > min(waits), "the time to come back follows the backlog"
    assert after.status_code == 200
    assert set(answers) == {*receipts, *late}
    assert {len(results) for results in answers.values()} == {1}
    kinds = {answers[receipt][0].headers["ce_type"] for receipt in late}
    assert kinds == {b"penstock.inference.expired.v1"}, "who cannot wait is told so"
