"""Looking at, coming back to and cancelling a request; leaving it; other tenants."""

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from shared.contracts.errors import RequestCancelled
from shared.contracts.events import FinishReason, Outcome
from shared.ledger.records import Epoch
from shared.openai.requests import parse_request
from tests.fakes.served_gateway import ServedGateway, served_gateway, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
PATH = "/v1/chat/completions"
UNKNOWN = "f" * 32


def contents(text: str) -> str:
    payloads = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for payload in payloads for choice in payload["choices"])


async def read_until(served: ServedGateway, lines: list[str], wanted: str) -> None:
    """Read a new stream until a line contains what is wanted, then hang up."""
    async with served.client.stream("POST", PATH, json=STREAM) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if wanted in line:
                return


async def test_a_stream_is_resumed_after_its_last_event(served: ServedGateway) -> None:
    lines: list[str] = []
    asked = asyncio.create_task(read_until(served, lines, "one "))
    job = await served.claimed()
    await job.say("one ")
    await asked
    identifier = next(line[4:] for line in reversed(lines) if line.startswith("id: "))
    await job.say("two ")
    resumed = asyncio.create_task(
        served.client.get(f"/v1/requests/{job.envelope.request_id}/stream", headers={"last-event-id": identifier})
    )
    await until(lambda: served.gateway.followings.router.num_streams)
    await job.say("three", finish=FinishReason.STOP)
    await job.complete()
    response = await resumed
    assert response.headers["content-type"].startswith("text/event-stream")
    assert contents(response.text) == "two three"
    assert '"role"' not in response.text
    assert served.ledger.store.entries[job.envelope.request_id].cancel is None


async def test_without_a_last_event_the_whole_stream_comes_again(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    sealed = await served.worker.answer(await served.published(), "a", "b")
    first = await asked
    again = await served.client.get(f"/v1/requests/chatcmpl-{sealed.request_id}/stream")
    assert contents(again.text) == contents(first.text) == "ab"
    assert again.text.endswith("data: [DONE]\n\n")


async def test_a_stream_that_was_read_to_its_end_has_only_its_end_left(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    sealed = await served.worker.answer(await served.published(), "a")
    identifier = [line[4:] for line in (await asked).text.splitlines() if line.startswith("id: ")][-1]
    again = await served.client.get(f"/v1/requests/{sealed.request_id}/stream", headers={"last-event-id": identifier})
    assert again.text == "data: [DONE]\n\n"


async def test_a_last_event_of_another_stream_is_an_error_not_a_contradiction(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    sealed = await served.worker.answer(await served.published(), "abc")
    await asked
    path = f"/v1/requests/{sealed.request_id}/stream"
    other = await served.client.get(path, headers={"last-event-id": "2.2.00000001"})
    garbage = await served.client.get(path, headers={"last-event-id": "what"})
    too_many = await served.client.get(path, headers={"last-event-id": "0.0.00000000,0.0.00000000"})
    assert (other.status_code, other.json()["error"]["code"]) == (500, "internal_error")
    assert garbage.json()["error"]["param"] == "last-event-id"
    assert (garbage.status_code, too_many.status_code) == (400, 400)


async def test_a_stream_this_gateway_never_saw_is_shaped_by_its_record() -> None:
    looked_up: list[Any] = []

    async def lookup(pool: str, where: Any) -> Any:
        looked_up.append((pool, where.topic))
        return parse_request(json.dumps(STREAM).encode(), kind=None)

    async with served_gateway(lookup=lookup) as served:
        asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
        sealed = await served.worker.answer(await served.published(), "abc")
        await asked
        served.gateway.shapes._shapes.clear()
        again = await served.client.get(f"/v1/requests/{sealed.request_id}/stream")
    assert contents(again.text) == "abc"
    assert looked_up == [("default", "inference.requests.default.interactive")]


async def test_a_stream_whose_record_is_gone_is_404(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    sealed = await served.worker.answer(await served.published(), "abc")
    await asked
    served.gateway.shapes._shapes.clear()
    again = await served.client.get(f"/v1/requests/{sealed.request_id}/stream")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "request_not_found")


async def test_who_hangs_up_and_stays_away_has_its_request_cancelled(served: ServedGateway) -> None:
    lines: list[str] = []
    asked = asyncio.create_task(read_until(served, lines, "one"))
    job = await served.claimed()
    await job.say("one")
    await asked
    entry = served.ledger.store.entries[job.envelope.request_id]
    await until(lambda: entry.cancel)
    assert (await job.say("two")).cancel_requested


async def test_a_client_without_stream_that_hangs_up_has_its_request_cancelled(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=CHAT))
    job = await served.claimed()
    asked.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    await until(lambda: served.ledger.store.entries[job.envelope.request_id].cancel)
    assert served.gateway.submissions._admission.outstanding_requests == 0


async def test_a_watcher_of_an_asynchronous_request_may_leave_without_ending_it() -> None:
    async with served_gateway(grace_seconds=0.05) as served:
        accepted = await served.client.post(PATH, json=STREAM, headers={"prefer": "respond-async"})
        job = await served.claimed()
        await job.say("a")
        async with served.client.stream("GET", f"{accepted.headers['location']}/stream") as response:
            async for line in response.aiter_lines():
                if line.startswith("id:"):
                    break
        entry = served.ledger.store.entries[job.envelope.request_id]
        await until(lambda: entry.subscribers == ["kept"])
        assert entry.cancel is None
        assert not (await job.say("b")).cancel_requested


async def test_a_request_that_keeps_the_best_has_no_stream_to_come_back_to(served: ServedGateway) -> None:
    body = {"model": "tiny", "prompt": "hi", "best_of": 2}
    accepted = await served.client.post("/v1/completions", json=body, headers={"prefer": "respond-async"})
    again = await served.client.get(f"{accepted.headers['location']}/stream")
    assert (again.status_code, again.json()["error"]["param"]) == (400, "best_of")


async def test_the_end_of_a_drain_ends_streams_with_a_note_and_cancels_nothing(served: ServedGateway) -> None:
    streamed = asyncio.create_task(served.client.post(PATH, json=STREAM))
    job = await served.claimed()
    await job.say("one")
    waited = asyncio.create_task(served.client.post(PATH, json=CHAT))
    await served.published(2)
    await until(lambda: served.gateway.followings.abandonments._readers.__len__() == 2)
    served.gateway.begin_drain()
    served.gateway.end_streams()
    stream, whole = await asyncio.gather(streamed, waited)
    note = json.loads(stream.text.splitlines()[-4].removeprefix("data: "))["error"]
    assert f"/v1/requests/{job.envelope.request_id}/stream" in note["message"]
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "temporarily_unavailable")
    assert served.gateway.followings.abandonments._due_at == {}


async def test_cancelling_asks_once_and_answers_with_the_outcome_afterwards(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=CHAT))
    job = await served.claimed()
    url = f"/v1/requests/{job.envelope.request_id}"
    requested = await served.client.delete(url)
    assert (await job.say("x")).cancel_requested
    await job.fail(RequestCancelled("cancelled"), Outcome.CANCELLED)
    again = await served.client.delete(url)
    assert (requested.status_code, requested.json()["state"]) == (202, "running")
    assert (again.status_code, again.json()["outcome"]) == (200, "cancelled")
    assert (await asked).status_code == 499


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", [UNKNOWN, "chatcmpl-x", "..%2f", "A" * 32])
async def test_an_unknown_request_is_404(served: ServedGateway, method: str, name: str) -> None:
    response = await served.client.request(method, f"/v1/requests/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert served.ledger.store.entries == {}


async def test_another_tenants_request_does_not_exist() -> None:
    async with served_gateway(api_keys="sk-1=alpha,sk-2=beta") as served:
        alpha, beta = ({"authorization": f"Bearer {key}"} for key in ("sk-1", "sk-2"))
        headers = alpha | {"prefer": "respond-async"}
        location = (await served.client.post(PATH, json=CHAT, headers=headers)).headers["location"]

        async def ask(method: str, path: str, who: dict[str, str]) -> httpx.Response:
            return await served.client.request(method, path, headers=who)

        own = await ask("GET", location, alpha)
        foreign = [
            await ask("GET", location, beta),
            await ask("DELETE", location, beta),
            await ask("GET", f"{location}/stream", beta),
        ]
        (entry,) = served.ledger.store.entries.values()
        same_key = beta | {"prefer": "respond-async", "idempotency-key": "k"}
        first = await served.client.post(PATH, json=CHAT, headers=same_key)
        second = await served.client.post(PATH, json=CHAT, headers=same_key | alpha)
    assert own.json()["tenant"] == "alpha"
    assert [response.status_code for response in foreign] == [404] * 3
    assert entry.cancel is None
    assert first.headers["location"] != second.headers["location"]


async def test_while_redis_is_refilled_an_unknown_request_is_not_denied(served: ServedGateway) -> None:
    served.ledger.store.epoch = None
    for answer in (
        await served.client.get(f"/v1/requests/{UNKNOWN}"),
        await served.client.get(f"/v1/requests/{UNKNOWN}/stream"),
        await served.client.delete(f"/v1/requests/{UNKNOWN}"),
    ):
        assert answer.status_code == 503
        assert "refilled" in answer.json()["error"]["message"]


async def test_after_a_loss_an_unknown_request_may_still_wait_until_its_deadline(served: ServedGateway) -> None:
    now_ms = served.gateway.clock.now_ms()
    longest_ms = round(served.gateway.settings.default_deadline_seconds * 1_000)
    served.ledger.store.epoch = Epoch(name="2", opened_at_ms=now_ms - longest_ms + 10_000, is_refilled=True)
    assert (await served.client.get(f"/v1/requests/{UNKNOWN}")).status_code == 503
    served.ledger.store.epoch = Epoch(name="2", opened_at_ms=now_ms - longest_ms - 1_000, is_refilled=True)
    assert (await served.client.get(f"/v1/requests/{UNKNOWN}")).status_code == 404


async def test_a_stream_outlives_the_loss_of_everything_redis_knew(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    job = await served.claimed()
    await job.say("one ")
    await until(lambda: served.gateway.followings.router.num_streams)
    served.ledger.store.lose_everything()
    await until(lambda: job.envelope.request_id in served.ledger.store.entries)  # the gateway tells it again
    await served.ledger.open_epoch(is_refilled=True)
    again = await served.claimed()
    assert again.envelope.request_id == job.envelope.request_id
    await again.say("one ")
    await again.say("two", finish=FinishReason.STOP)
    await again.complete()
    assert contents((await asked).text) == "one two"


async def test_a_stream_that_no_worker_has_begun_is_asked_for_again_elsewhere(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post(PATH, json=STREAM))
    record = await served.published()
    request_id = next(iter(served.ledger.store.entries))
    served.gateway.shapes._shapes.clear()  # as at another gateway
    answer = await served.client.get(f"/v1/requests/{request_id}/stream")
    assert answer.status_code == 503
    await served.worker.answer(record, "a")
    await asked
