"""Everything the gateway refuses before a request exists: status, OpenAI's shape, the field's name, the headers."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from shared.contracts.fleet import WorkerState
from tests.fakes.served_gateway import ServedGateway, heartbeat, served_gateway

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "tiny", "messages": MESSAGES}
PATH = "/v1/chat/completions"


def refused(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The error of a response, checked: shape, status, code, field, and that it is named."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert len(response.headers["x-request-id"]) == 32
    assert response.headers["x-should-retry"] == ("true" if status in {429, 503} else "false")
    assert ("retry-after" in response.headers) == (status in {429, 503})
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"nonsense", b'{"model": NaN}', b"\xff\xfe"])
async def test_what_is_not_a_json_object_is_400(served: ServedGateway, body: bytes) -> None:
    refused(await served.client.post(PATH, content=body), 400, "invalid_request")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modle": "x"}, "modle"),
    ],
)
async def test_a_wrong_field_is_400_and_named(served: ServedGateway, changes: dict[str, Any], param: str) -> None:
    refused(await served.client.post(PATH, json=CHAT | changes), 400, "invalid_request", param)
    assert served.producer.sent == []
    assert served.ledger.store.entries == {}


async def test_a_missing_field_is_400_and_named(served: ServedGateway) -> None:
    refused(await served.client.post(PATH, json={"model": "tiny"}), 400, "invalid_request", "messages")


async def test_a_missing_model_is_400_and_named(served: ServedGateway) -> None:
    refused(await served.client.post(PATH, json={"messages": MESSAGES}), 400, "invalid_request", "model")


async def test_an_unknown_model_is_404(served: ServedGateway) -> None:
    refused(await served.client.post(PATH, json=CHAT | {"model": "x"}), 404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("penstock-deadline-ms", "5000"),
        ("penstock-deadline-ms", "soon"),
        ("penstock-priority", "1001"),
        ("penstock-priority", "--1"),
        ("idempotency-key", "k" * 256),
    ],
)
async def test_a_wrong_header_is_400_and_named(served: ServedGateway, header: str, value: str) -> None:
    response = await served.client.post(PATH, json=CHAT, headers={header: value})
    refused(response, 400, "invalid_request", header)


async def test_a_body_over_the_limit_is_413_announced_or_not() -> None:
    async with served_gateway(body_limit_bytes=1_024) as served:

        async def unannounced() -> Any:
            for _ in range(3):
                yield b" " * 500

        refused(await served.client.post(PATH, content=b" " * 1_025), 413, "body_too_large")
        refused(await served.client.post(PATH, content=unannounced()), 413, "body_too_large")
        refused(await served.client.post(PATH, content=b" " * 1_024), 400, "invalid_request")
        assert served.producer.sent == []


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic sk-1"])
async def test_a_missing_or_wrong_key_is_401_on_every_v1_route(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    async with served_gateway(api_keys="sk-1=alpha") as served:
        client = served.client
        for response in (
            await client.post(PATH, json=CHAT, headers=headers),
            await client.post("/v1/completions", json={"model": "tiny", "prompt": "x"}, headers=headers),
            await client.get("/v1/models", headers=headers),
            await client.get("/v1/models/tiny", headers=headers),
            await client.get(f"/v1/requests/{'a' * 32}", headers=headers),
            await client.get(f"/v1/requests/{'a' * 32}/stream", headers=headers),
            await client.delete(f"/v1/requests/{'a' * 32}", headers=headers),
        ):
            refused(response, 401, "invalid_api_key")


async def test_a_model_whose_workers_are_away_is_503() -> None:
    async with served_gateway(fleet=(heartbeat(state=WorkerState.ENGINE_DOWN),)) as served:
        error = refused(await served.client.post(PATH, json=CHAT), 503, "no_worker_ready")
    assert "tiny" in error["message"]


async def test_a_fleet_nobody_heard_of_is_503_and_not_404() -> None:
    async with served_gateway(fleet=()) as served:
        refused(await served.client.post(PATH, json=CHAT), 503, "no_worker_ready")


async def test_a_stopping_gateway_takes_nothing_new(served: ServedGateway) -> None:
    served.gateway.begin_drain()
    refused(await served.client.post(PATH, json=CHAT), 503, "temporarily_unavailable")
    assert served.ledger.store.entries == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_unknown_routes_and_methods_answer_in_openais_shape(
    served: ServedGateway, method: str, path: str, status: int, code: str
) -> None:
    refused(await served.client.request(method, path), status, code)


async def test_a_bug_is_a_500_in_openais_shape_and_counted(served: ServedGateway) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError("a secret")

    served.gateway.submissions.submit = broken  # type: ignore[method-assign,assignment]
    response = await served.client.post(PATH, json=CHAT)
    error = refused(response, 500, "internal_error")
    metrics = (await served.client.get("/metrics")).text
    assert "secret" not in error["message"]
    assert 'penstock_http_requests_total{route="/v1/chat/completions",status="500"}' in metrics


async def test_the_place_of_a_refused_request_is_given_back() -> None:
    async with served_gateway(max_outstanding_requests=1) as served:
        served.ledger.available = False
        for _ in range(3):
            refused(await served.client.post(PATH, json=CHAT), 503, "ledger_unavailable")
        served.ledger.available = True
        asked = asyncio.create_task(served.client.post(PATH, content=json.dumps(CHAT)))
        await served.worker.answer(await served.published(), "x")
        assert (await asked).status_code == 200
