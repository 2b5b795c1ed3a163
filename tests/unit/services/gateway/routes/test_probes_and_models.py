"""What machines look at: models, probes, metrics, documents."""

import asyncio
import json

import openai
import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.fleet import WorkerState
from shared.contracts.topics import TopicNames, topic_specifications
from tests.fakes.served_gateway import ServedGateway, heartbeat, served_gateway, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def problems_of(served: ServedGateway) -> set[str]:
    response = await served.client.get("/readyz")
    body = response.json()
    assert response.status_code == (503 if body["problems"] else 200)
    assert body["ready"] is not bool(body["problems"])
    return set(body["problems"])


async def test_models_are_what_ready_workers_announce(served: ServedGateway) -> None:
    served.gateway.directory.observe(heartbeat(worker_id="w2", pool="gpu", models=("org/big",)))  # type: ignore[arg-type]
    client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
    assert [model.id async for model in client.models.list()] == ["org/big", "tiny"]
    assert (await client.models.retrieve("tiny")).id == "tiny"
    assert (await served.client.get("/v1/models/org/big")).json()["pool"] == "gpu"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("none")


async def test_ready_when_everything_is(served: ServedGateway) -> None:
    assert await problems_of(served) == set()


async def test_readiness_names_what_is_wrong() -> None:
    async with served_gateway(fleet=()) as served:
        assert await problems_of(served) == {"heartbeats"}
        served.gateway.directory.observe(heartbeat(pool="other"))
        assert await problems_of(served) == {"workers"}
        served.gateway.directory.observe(heartbeat(sequence_number=2))
        served.ledger.available = False
        assert await problems_of(served) == {"ledger"}
        served.ledger.available = True
        served.producer.error = BrokerUnavailable("no broker")
        await served.client.post("/v1/chat/completions", json=CHAT)
        assert await problems_of(served) == {"producer"}


async def test_a_worker_that_drains_is_no_ready_worker() -> None:
    async with served_gateway(fleet=(heartbeat(state=WorkerState.DRAINING),)) as served:
        assert await problems_of(served) == {"workers"}


async def test_a_stopping_gateway_is_alive_and_not_ready(served: ServedGateway) -> None:
    served.gateway.begin_drain()
    assert await problems_of(served) == {"lifecycle"}
    assert (await served.client.get("/livez")).status_code == 200


async def test_a_dead_loop_is_a_dead_process(served: ServedGateway) -> None:
    served.gateway.vitals.dead_loops.append("listener")
    assert (await served.client.get("/livez")).status_code == 500
    assert "loops" in await problems_of(served)


async def test_the_listener_is_told_about_and_a_lost_channel_reads_the_logs(served: ServedGateway) -> None:
    assert served.gateway.vitals.is_listening
    served.gateway.vitals.is_listening = False
    assert await problems_of(served) == {"streams"}


async def test_metrics_count_by_route_template(served: ServedGateway) -> None:
    await served.client.get(f"/v1/requests/{'0' * 32}")
    await served.client.get("/no/such/route")
    text = (await served.client.get("/metrics")).text
    assert 'penstock_http_requests_total{route="/v1/requests/{name}",status="404"}' in text
    assert 'route="unrouted",status="404"' in text
    assert "no/such" not in text


async def test_the_openapi_document_describes_the_bodies_and_resolves(served: ServedGateway) -> None:
    document = (await served.client.get("/openapi.json")).json()
    post = document["paths"]["/v1/chat/completions"]["post"]
    reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/ChatBody"
    names = {name.split('"')[0] for name in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert (await served.client.get("/docs")).status_code == 200


async def test_the_asyncapi_document_names_topics_that_exist(served: ServedGateway) -> None:
    document = (await served.client.get("/asyncapi.json")).json()
    page = (await served.client.get("/asyncapi")).text
    existing = {topic.name for topic in topic_specifications(TopicNames(), pools=("{pool}",))}
    addresses = {channel["address"] for channel in document["channels"].values()}
    assert document["asyncapi"].startswith("3.")
    assert addresses <= existing
    assert all(address in page for address in addresses)
    names = {name.split('"')[0] for name in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


async def test_a_lost_channel_makes_open_streams_read_their_logs(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT | {"stream": True}))
    job = await served.claimed()
    await until(lambda: served.gateway.followings.router.num_streams)
    entry = served.ledger.store.entries[job.envelope.request_id]
    entry.subscribers.clear()
    await job.say("unheard")
    served.ledger.cut_subscriptions()
    await until(lambda: entry.subscribers)
    await job.complete()
    assert "unheard" in (await asked).text
