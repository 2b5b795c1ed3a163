"""`penstock key` and a running gateway: what an operator issues and revokes takes effect without a restart."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app
from services.gateway.application import build_gateway
from services.gateway.settings import GatewaySettings
from shared.contracts.topics import topic_specifications
from shared.messaging.admin import ensure_topics
from shared.settings.kafka import KafkaSettings
from shared.settings.redis import RedisSettings
from tests.fakes.served_gateway import heartbeat, serving, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

EFFECTIVE_SECONDS = 5
"""What the documentation promises."""


@dataclass
class Installation:
    client: httpx.AsyncClient
    kafka: KafkaSettings

    async def penstock(self, *arguments: str) -> str:
        """What `penstock key ...` printed; in a thread, since it runs a loop of its own."""
        command = ["key", *arguments, "--kafka", self.kafka.bootstrap_servers]
        result = await asyncio.to_thread(CliRunner().invoke, app, command, env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    async def issue(self, *arguments: str) -> tuple[str, str]:
        """A new key's name and its text."""
        output = await self.penstock("create", *arguments)
        found = re.search(r"^pk-([0-9a-f]{8})-\S+$", output, re.MULTILINE)
        assert found is not None, output
        return found[1], found[0]

    async def models(self, key: str | None = None) -> tuple[int, list[str]]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        response = await self.client.get("/v1/models", headers=headers)
        return response.status_code, [model["id"] for model in response.json().get("data", [])]


async def eventually(answer: Callable[[], Awaitable[object]], expected: object) -> None:
    async with asyncio.timeout(EFFECTIVE_SECONDS):
        while await answer() != expected:
            await asyncio.sleep(0.05)


@pytest.fixture
async def installation(
    kafka_settings: KafkaSettings, redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    monkeypatch.setenv("PENSTOCK_KAFKA_TOPIC_PREFIX", kafka_settings.topic_prefix)
    names = kafka_settings.topic_names
    await ensure_topics(kafka_settings, topic_specifications(names, pools=("default",), request_partitions=1))
    settings = GatewaySettings(name="test", heartbeat_age_seconds=600)
    application = build_gateway(settings, kafka=kafka_settings, redis=redis_settings)
    async with serving(application) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        gateway = application.state.gateway
        gateway.directory.observe(heartbeat(models=("tiny", "large")))
        await until(lambda: gateway.keyring.is_complete, seconds=20)
        yield Installation(client, kafka_settings)


async def test_a_key_lets_its_tenant_in_until_it_is_revoked(installation: Installation) -> None:
    assert await installation.models() == (200, ["large", "tiny"])
    name, key = await installation.issue("--tenant", "alpha")
    await eventually(installation.models, (401, []))
    await eventually(lambda: installation.models(key), (200, ["large", "tiny"]))
    assert "is revoked" in await installation.penstock("revoke", name)
    await eventually(lambda: installation.models(key), (401, []))
    assert (await installation.models())[0] == 401
    assert "revoked before" in await installation.penstock("revoke", name)


async def test_a_key_for_one_model_sees_and_asks_for_no_other(installation: Installation) -> None:
    _, key = await installation.issue("--tenant", "alpha", "--model", "tiny")
    await eventually(lambda: installation.models(key), (200, ["tiny"]))
    headers = {"authorization": f"Bearer {key}"}
    assert (await installation.client.get("/v1/models/large", headers=headers)).status_code == 403
    body = {"model": "large", "messages": [{"role": "user", "content": "hi"}]}
    refused = await installation.client.post("/v1/chat/completions", json=body, headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["param"] == "model"


async def test_a_key_with_limits_is_told_when_to_come_back(installation: Installation) -> None:
    name, key = await installation.issue(
        "--tenant", "alpha", "--requests-per-minute", "1", "--tokens-per-minute", "500"
    )
    await eventually(lambda: installation.models(key), (200, ["large", "tiny"]))
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    headers = {"authorization": f"Bearer {key}", "prefer": "respond-async"}
    accepted = await installation.client.post("/v1/chat/completions", json=body, headers=headers)
    assert (accepted.status_code, accepted.headers["x-ratelimit-remaining-requests"]) == (202, "0")
    assert accepted.headers["x-ratelimit-remaining-tokens"] == "496"
    refused = await installation.client.post("/v1/chat/completions", json=body, headers=headers)
    assert refused.status_code == 429
    assert "this API key" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert "1 requests, 500 tokens" in next(
        line for line in (await installation.penstock("list")).splitlines() if name in line
    )


async def test_the_list_shows_every_key_and_no_secret(installation: Installation) -> None:
    name, key = await installation.issue("--tenant", "alpha", "--label", "nightly")
    listed = await installation.penstock("list")
    assert {name, "alpha", "nightly"} <= set(listed.split())
    assert key not in listed
    assert key.rpartition("-")[2] not in listed


async def test_commands_that_mean_nothing_say_so(installation: Installation) -> None:
    for arguments, complaint in (
        (["revoke", "ffffffff"], "no key ffffffff was issued"),
        (["create", "--tenant", " "], "--tenant is empty"),
    ):
        command = ["key", *arguments, "--kafka", installation.kafka.bootstrap_servers]
        result = await asyncio.to_thread(CliRunner().invoke, app, command)
        assert result.exit_code == 1
        assert complaint in result.output
