"""Admission as a caller sees it: status, headers, the error's words."""

import asyncio
from typing import Any

import httpx

from tests.fakes.served_gateway import TOPIC, ServedGateway, heartbeat, served_gateway

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
PATH = "/v1/chat/completions"
FULL = {
    "running_requests": 108,
    "queued_requests": 100,
    "drained_tokens_per_second": 40.0,
    "outstanding_tokens": 1_080,
}


async def answered(served: ServedGateway, number: int = 1, **arguments: Any) -> httpx.Response:
    asked = asyncio.create_task(served.client.post(PATH, json=CHAT, **arguments))
    await served.worker.answer(await served.published(number), "x")
    return await asked


async def test_a_full_pool_is_503_with_the_time_until_it_is_not() -> None:
    async with served_gateway(fleet=(heartbeat(**FULL),)) as served:
        response = await served.client.post(PATH, json=CHAT)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")
        assert 20_000 <= int(response.headers["retry-after-ms"]) <= 20_500, "101 at 4 a second, less the objective"
        assert response.headers["x-should-retry"] == "true"
        assert served.producer.sent == []


async def test_with_admission_switched_off_a_full_pool_takes_it() -> None:
    async with served_gateway(fleet=(heartbeat(**FULL),), admission=False) as served:
        assert (await answered(served)).status_code == 200


async def test_a_tenants_limits_are_in_every_answer_and_beyond_them_it_is_429() -> None:
    async with served_gateway(tenant_requests_per_minute=1, tenant_tokens_per_minute=1_000) as served:
        first = await answered(served)
        assert first.headers["x-ratelimit-limit-requests"] == "1"
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.headers["x-ratelimit-remaining-tokens"] == "990"
        second = await served.client.post(PATH, json=CHAT)
        assert (second.status_code, second.json()["error"]["type"]) == (429, "rate_limit_error")
        assert 55 <= int(second.headers["retry-after"]) <= 60


async def test_a_tenant_without_limits_gets_no_such_headers(served: ServedGateway) -> None:
    response = await answered(served)
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


async def test_the_lane_header_sends_a_request_to_the_bulk_topic_where_it_may_wait() -> None:
    async with served_gateway(fleet=(heartbeat(**FULL),)) as served:
        response = await answered(served, headers={"penstock-lane": "bulk"})
        assert response.status_code == 200
        assert served.producer.sent[0]["topic"] == TOPIC.replace("interactive", "bulk")


async def test_an_unknown_lane_is_400_and_names_the_header(served: ServedGateway) -> None:
    response = await served.client.post(PATH, json=CHAT, headers={"penstock-lane": "fast"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "penstock-lane")
