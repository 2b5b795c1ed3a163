"""What a hostile client writes into its headers, paths and fields: no header, no record and no series of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from shared.telemetry.catalogue import REGISTRY
from tests.fakes.served_gateway import ServedGateway, served_gateway

BODY = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}'
PATH = "/v1/chat/completions"
INJECTED = "penstock-tenant: other"


@pytest.fixture
async def keyed() -> AsyncIterator[ServedGateway]:
    async with served_gateway(api_keys="sk-1=alpha") as served:
        yield served


async def raw(served: ServedGateway, head: bytes, body: bytes = b"") -> bytes:
    """Bytes as no client library would send them, and the answer to its end."""
    address = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = b"Host: x\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    writer.write(head + lines + b"\r\n" + body)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("line_end", [b"\r", b"\n", b"\x00", b"\r\n ", b"%0d%0a", b"\xe5\x98\x8a\xe5\x98\x8d"])
@pytest.mark.parametrize("name", [b"Idempotency-Key", b"traceparent", b"Prefer", b"Authorization"])
async def test_no_value_becomes_a_header_of_its_own(keyed: ServedGateway, name: bytes, line_end: bytes) -> None:
    """Neither of the response nor of the record: whatever line end a value tries."""
    own = {b"Authorization": b"Bearer sk-1", b"Prefer": b"respond-async, k"}.get(name, b"k")
    headers = {b"Authorization": b"Bearer sk-1", b"Prefer": b"respond-async"}
    headers[name] = own + line_end + INJECTED.encode()
    lines = b"".join(b"%s: %s\r\n" % pair for pair in headers.items())
    answer = await raw(keyed, b"POST %s HTTP/1.1\r\n%s" % (PATH.encode(), lines), BODY)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"penstock-tenant" not in head
    for record in map(keyed.producer.record, range(len(keyed.producer.sent))):
        assert dict(record.headers)["penstock-tenant"] == b"alpha"
        assert [header for header, _ in record.headers].count("penstock-tenant") == 1


@pytest.mark.parametrize("name", ["penstock-tenant", "penstock-reply-to", "penstock-request-id", "penstock-attempt"])
async def test_a_client_cannot_speak_for_the_gateway(keyed: ServedGateway, name: str) -> None:
    headers = {"authorization": "Bearer sk-1", "prefer": "respond-async", name: "other"}
    accepted = await keyed.client.post(PATH, content=BODY, headers=headers)
    assert accepted.status_code == 202
    record = await keyed.published()
    assert b"other" not in {value for _, value in record.headers}
    assert dict(record.headers)["penstock-tenant"] == b"alpha"


async def test_nothing_a_client_varies_makes_another_series(keyed: ServedGateway) -> None:
    await vary(keyed, "first")
    before = set(series())
    await vary(keyed, "second")
    assert set(series()) == before


async def vary(served: ServedGateway, word: str) -> None:
    key = {"authorization": "Bearer sk-1"}
    for number in range(5):
        name = f"{word}-{number}"
        await served.client.get(f"/v1/{name}", headers=key)
        await served.client.get(f"/v1/requests/{name}", headers=key)
        await served.client.get(f"/v1/models/{name}", headers=key)
        await served.client.request(f"X{word.upper()}", PATH, headers=key)
        await served.client.post(PATH, content=BODY, headers={"authorization": f"Bearer {name}"})
        await served.client.post(PATH, json={"model": name, "messages": []}, headers=key)
        await served.client.post(
            PATH, content=BODY.replace(b"tiny", name.encode()), headers=key | {"idempotency-key": name}
        )
        asynchronously = key | {"prefer": "respond-async", "idempotency-key": name, "user-agent": name}
        assert (await served.client.post(PATH, content=BODY, headers=asynchronously)).status_code == 202


def series() -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            yield sample.name, frozenset(sample.labels.items())
