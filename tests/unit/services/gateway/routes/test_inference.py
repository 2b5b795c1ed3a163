"""The two POSTs, over real HTTP, with the official client and with raw bytes."""

import asyncio
import json

import openai
import pytest

from shared.contracts import headers as names_of
from shared.contracts.errors import BrokerUnavailable, EngineFailed, PromptTooLong, RequestCancelled
from shared.contracts.events import FinishReason, Outcome
from shared.contracts.identifiers import request_id_from_event
from shared.ledger.records import Ended, Verdict
from tests.fakes.served_gateway import ServedGateway, served_gateway, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
CHAT_BODY = json.dumps(CHAT).encode()
STREAM = CHAT | {"stream": True}


def client_of(served: ServedGateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)


def asked_stream(served: ServedGateway) -> asyncio.Task[tuple[int, list[str]]]:
    """Headers come with the first event, so the asking runs beside the worker. Status and lines."""

    async def ask() -> tuple[int, list[str]]:
        async with served.client.stream("POST", "/v1/chat/completions", json=STREAM) as response:
            return response.status_code, [line async for line in response.aiter_lines() if line]

    return asyncio.create_task(ask())


async def test_the_result_is_the_sealed_bytes_as_they_are(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT))
    sealed = await served.worker.answer(await served.published(), "Hello", " you")
    response = await asked
    assert response.status_code == 200
    assert response.content == sealed.value
    assert response.json()["choices"][0]["message"]["content"] == "Hello you"
    assert response.headers["x-request-id"] == sealed.request_id


async def test_the_body_is_forwarded_unmodified_with_the_envelope_in_headers(served: ServedGateway) -> None:
    body = b'{ "model" : "tiny",  "messages":[{"role":"user","content":"\\u00e4"}] }'
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    asked = asyncio.create_task(
        served.client.post(
            "/v1/chat/completions", content=body, headers={"traceparent": trace, "penstock-priority": "7"}
        )
    )
    record = await served.published()
    await served.worker.answer(record, "x")
    request_id = (await asked).headers["x-request-id"]
    sent = {name: value.decode() for name, value in record.headers if value is not None}
    assert record.value == body
    assert record.topic == "inference.requests.default.interactive"
    assert record.key == request_id.encode()
    assert sent[names_of.CONTENT_TYPE] == "application/json"
    assert sent[names_of.ENDPOINT] == "chat"
    assert sent[names_of.TENANT] == "default"
    assert sent[names_of.PRIORITY] == "7"
    assert int(sent[names_of.DEADLINE_MS]) > 1_700_000_000_000
    assert sent[names_of.TRACEPARENT].split("-")[1] == trace.split("-")[1]
    derived = request_id_from_event(tenant="default", source=sent[names_of.CE_SOURCE], event_id=sent[names_of.CE_ID])
    assert derived == request_id


async def test_requests_go_to_a_partition_that_a_worker_announced(served: ServedGateway) -> None:
    asked = [asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT)) for _ in range(4)]
    await served.published(4)
    partitions = sorted(sent["partition"] for sent in served.producer.sent)
    for index in range(4):
        await served.worker.answer(served.producer.record(index), "x")
    await asyncio.gather(*asked)
    assert partitions == [0, 0, 1, 1]


async def test_the_official_client_streams_in_order_with_usage_and_several_choices(served: ServedGateway) -> None:
    async def ask() -> tuple[dict[int, str], dict[int, str | None], object]:
        texts: dict[int, str] = {}
        reasons: dict[int, str | None] = {}
        usage = None
        stream = await client_of(served).chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
                reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
        return texts, reasons, usage

    asked = asyncio.create_task(ask())
    await served.worker.answer(await served.published(), "one ", "two ", "three")
    texts, reasons, usage = await asked
    assert texts == {0: "one two three", 1: "one two three"}
    assert reasons == {0: "stop", 1: "stop"}
    assert usage is not None
    assert usage.completion_tokens == 26


async def test_the_official_client_reads_completions(served: ServedGateway) -> None:
    asked = asyncio.create_task(client_of(served).completions.create(model="tiny", prompt="once"))
    await served.worker.answer(await served.published(), " upon")
    assert (await asked).choices[0].text == " upon"


async def test_an_error_before_the_first_event_is_a_real_status_also_of_a_stream(served: ServedGateway) -> None:
    async def ask() -> None:
        stream = await client_of(served).chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        async for _ in stream:
            pass

    asked = asyncio.create_task(ask())
    job = await served.claimed()
    await job.fail(PromptTooLong("too long", param="messages"))
    with pytest.raises(openai.BadRequestError) as refused:
        await asked
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "messages"


async def test_an_error_after_the_first_event_is_an_error_event(served: ServedGateway) -> None:
    asked = asked_stream(served)
    job = await served.claimed()
    await job.say("a")
    await until(lambda: served.gateway.followings.router.num_streams == 1)
    await job.fail(EngineFailed("the engine broke"))
    status, lines = await asked
    assert status == 200
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert lines[-1] == "data: [DONE]"


async def test_a_stream_that_waits_long_starts_with_pings_and_fails_by_event() -> None:
    async with served_gateway(first_event_seconds=0.15, ping_seconds=0.1) as served:
        async with served.client.stream("POST", "/v1/chat/completions", json=STREAM) as response:
            job = await served.claimed()
            lines: list[str] = []
            async for line in response.aiter_lines():
                if line:
                    lines.append(line)
                if lines == [": ping", ": ping"]:
                    await job.fail(EngineFailed("the engine broke"))
        assert response.status_code == 200
        assert lines[:2] == [": ping", ": ping"]
        assert '"engine_failed"' in lines[-2]


async def test_a_failed_outcome_without_stream_has_the_status_of_its_code(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT))
    job = await served.claimed()
    sealed = await job.fail(EngineFailed("the engine broke"))
    response = await asked
    assert response.status_code == 503
    assert response.content == sealed.value
    assert response.headers["x-should-retry"] == "true"


async def test_a_publish_that_fails_is_503_and_the_request_ends_at_its_claim(served: ServedGateway) -> None:
    served.producer.error = BrokerUnavailable("no broker")
    response = await served.client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "broker_unavailable"
    assert int(response.headers["retry-after"]) >= 1
    (entry,) = served.ledger.store.entries.values()
    assert entry.cancel == "it was never accepted"
    assert served.gateway.followings.router.num_streams == 0


async def test_a_record_that_arrived_although_refused_is_not_computed(served: ServedGateway) -> None:
    failing = served.producer.send

    async def send_but_say_no(topic: str, **arguments: object) -> None:
        await failing(topic, **arguments)
        raise BrokerUnavailable("no acknowledgement")

    served.producer.send = send_but_say_no  # type: ignore[method-assign]
    response = await served.client.post("/v1/chat/completions", json=CHAT)
    claim = await served.worker.claim(served.producer.record())
    assert response.status_code == 503
    assert isinstance(claim, Ended)
    assert claim.verdict is Verdict.CANCELLED


async def test_a_ledger_that_is_away_is_503_and_nothing_is_published(served: ServedGateway) -> None:
    served.ledger.available = False
    response = await served.client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "ledger_unavailable"
    assert response.headers["x-should-retry"] == "true"
    assert served.producer.sent == []


async def test_an_idempotency_key_returns_the_same_request_and_refuses_another_body(served: ServedGateway) -> None:
    headers = {"idempotency-key": "k1"}
    first = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT, headers=headers))
    record = await served.published()
    second = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT, headers=headers))
    await served.published(2)
    sealed = await served.worker.answer(record, "once")
    answers = await asyncio.gather(first, second)
    third = await served.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    other = await served.client.post("/v1/chat/completions", json=CHAT | {"n": 2}, headers=headers)
    assert [answer.content for answer in (*answers, third)] == [sealed.value] * 3
    assert len({answer.headers["x-request-id"] for answer in (*answers, third)}) == 1
    assert len(served.producer.sent) == 2
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_conflict"


async def test_a_refused_publish_with_an_idempotency_key_is_published_by_the_repeat(served: ServedGateway) -> None:
    headers = {"idempotency-key": "k2"}
    served.producer.error = BrokerUnavailable("no broker")
    refused = await served.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    served.producer.error = None
    asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT, headers=headers))
    await served.worker.answer(await served.published(), "now")
    assert refused.status_code == 503
    assert (await asked).json()["choices"][0]["message"]["content"] == "now"


async def test_who_prefers_async_gets_202_and_a_location_that_has_the_result(served: ServedGateway) -> None:
    accepted = await served.client.post("/v1/chat/completions", json=CHAT, headers={"prefer": "respond-async"})
    location = accepted.headers["location"]
    waiting = (await served.client.get(location)).json()
    sealed = await served.worker.answer(await served.published(), "later")
    done = (await served.client.get(location)).json()
    assert accepted.status_code == 202
    assert (waiting["state"], waiting["result"]) == ("waiting", None)
    assert (done["state"], done["outcome"], done["result"]) == (
        "finished",
        "completed",
        json.loads(sealed.value),
    )
    assert served.gateway.submissions._admission.outstanding_requests == 0


async def test_a_full_gateway_refuses_with_a_retry_time_and_admits_again_afterwards() -> None:
    async with served_gateway(max_outstanding_requests=1) as served:
        asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT))
        record = await served.published()
        refused = await served.client.post("/v1/chat/completions", json=CHAT)
        await served.worker.answer(record, "x")
        await asked
        again = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT))
        await served.worker.answer(await served.published(2), "y")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after-ms"]) >= 1
        assert (await again).status_code == 200


async def test_a_cancelled_outcome_is_499_and_not_to_be_repeated(served: ServedGateway) -> None:
    asked = asyncio.create_task(served.client.post("/v1/chat/completions", json=CHAT))
    job = await served.claimed()
    await job.fail(RequestCancelled("cancelled"), Outcome.CANCELLED)
    response = await asked
    assert response.status_code == 499
    assert response.headers["x-should-retry"] == "false"


async def test_every_chunk_event_has_an_id_and_the_finish_comes_last(served: ServedGateway) -> None:
    asked = asked_stream(served)
    job = await served.claimed()
    await job.say("ab")
    await job.say("", finish=FinishReason.LENGTH)
    await job.complete()
    _, lines = await asked
    identifiers = [line for line in lines if line.startswith("id: ")]
    payloads = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [identifier.split(".")[0] for identifier in identifiers] == ["id: 2", "id: 2"]
    assert identifiers[1].endswith("f")
    assert payloads[-1]["choices"][0]["finish_reason"] == "length"
    assert lines[-1] == "data: [DONE]"
