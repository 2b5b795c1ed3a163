"""A stranger's producer and consumer (confluent-kafka) against the whole stack."""

import asyncio
import json
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from services.cli.embedded.stack import EmbeddedStack
from services.cli.foreign_clients.kafka_client import Result
from shared.contracts import outcome_codec, request_codec
from shared.contracts.events import Outcome
from shared.contracts.requests import InferenceRequest, Prompt, RequestKind
from shared.contracts.sampling import SamplingParameters
from shared.contracts.topics import TopicNames
from tests.fixtures.stack import TINY, Topics

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

REPLY_TOPIC = "orders.answers"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "temperature": 0}


async def ask(topics: Topics, *bodies: dict[str, Any] | bytes, timeout_seconds: float = 60.0) -> list[Result]:
    """The one result of each body; fails when a body has none or several."""

    def round_trip() -> list[Result]:
        reader = topics.reader()
        try:
            receipts = topics.post(*bodies)
            answers = topics.answers(reader, receipts, timeout_seconds=timeout_seconds)
        finally:
            reader.close()
        assert set(answers) == set(receipts), f"{len(receipts) - len(answers)} of {len(receipts)} have no result"
        return [result for receipt in receipts for (result,) in [answers[receipt]]]

    return await asyncio.to_thread(round_trip)


async def test_a_bare_body_without_key_and_headers_is_answered_in_openais_shape(topics: Topics) -> None:
    (result,) = await ask(topics, CHAT)
    answer = json.loads(result.value)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == TINY
    assert answer["usage"]["completion_tokens"] <= 8
    assert result.headers["ce_type"] == b"penstock.inference.completed.v1"
    assert result.headers["content-type"] == b"application/json"


async def test_invalid_bodies_between_good_ones_are_answered_by_naming_the_field(topics: Topics) -> None:
    good, bad_temperature, good_too, bad_model, no_messages = await ask(
        topics,
        CHAT,
        {**CHAT, "temperature": 9},
        CHAT,
        {**CHAT, "model": "no-such-model"},
        {"messages": [], "max_tokens": 1},
    )
    assert json.loads(good.value)["choices"][0] == json.loads(good_too.value)["choices"][0]
    for result, param in ((bad_temperature, "temperature"), (bad_model, "model"), (no_messages, "messages")):
        assert result.headers["ce_type"] == b"penstock.inference.failed.v1"
        assert json.loads(result.value)["error"]["param"] == param


async def test_garbage_becomes_a_dead_letter_with_its_bytes_and_never_stops_the_partition(
    stack: EmbeddedStack, topics: Topics
) -> None:
    garbage = [b"\x00\xff\x80garbage", b"{broken", b"[1, 2]", b'"text"', b""]

    def produce_and_read_dead_letters() -> dict[bytes | None, dict[str, bytes | None]]:
        consumer = Consumer(
            {"bootstrap.servers": stack.addresses.kafka, "group.id": "dead", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([TopicNames().dead_letters])
        producer = Producer({"bootstrap.servers": stack.addresses.kafka})
        headers = [("odd", None), ("not-utf-8", b"\xff\xfe"), ("mine", b"1")]
        for value in [*garbage, None]:
            producer.produce(topics.requests, value=value, key=b"\x00key", headers=headers, partition=0)
        producer.produce(topics.requests, value=json.dumps(CHAT).encode(), headers=headers, partition=0)
        producer.flush(10)
        found: dict[bytes | None, dict[str, bytes | None]] = {}
        for _ in range(600):
            for message in consumer.consume(100, timeout=0.1):
                if message.key() == b"\x00key":
                    found[message.value()] = dict(message.headers() or [])
            if len(found) == len(garbage) + 1:
                break
        consumer.close()
        return found

    reader = await asyncio.to_thread(topics.reader)
    found = await asyncio.to_thread(produce_and_read_dead_letters)
    assert set(found) == {*garbage, None}
    for headers in found.values():
        assert headers["odd"] is None
        assert headers["not-utf-8"] == b"\xff\xfe"
        assert headers["penstock-dead-letter-reason"]

    def answer_behind_the_garbage() -> Result | None:
        for result in reader.results(timeout_seconds=30):
            if result.headers.get("mine") == b"1":
                return result
        return None

    answered = await asyncio.to_thread(answer_behind_the_garbage)
    reader.close()
    assert answered is not None
    assert answered.headers["not-utf-8"] == b"\xff\xfe"
    assert json.loads(answered.value)["object"] == "chat.completion"


async def test_a_protobuf_request_is_answered_in_protobuf_on_its_reply_topic_too(
    stack: EmbeddedStack, topics: Topics
) -> None:
    request = InferenceRequest(
        kind=RequestKind.COMPLETION,
        model=TINY,
        prompts=(Prompt(token_ids=(5, 6, 7)),),
        sampling=SamplingParameters(max_tokens=4, temperature=0.0, ignore_eos=True),
        return_token_ids=True,
    )
    headers = [
        ("content-type", b"application/protobuf"),
        ("ce_id", b"order-1"),
        ("ce_source", b"/shop"),
        ("penstock-reply-to", REPLY_TOPIC.encode()),
    ]

    def round_trip() -> tuple[Result, Result]:
        admin = AdminClient({"bootstrap.servers": stack.addresses.kafka})
        admin.create_topics([NewTopic(REPLY_TOPIC, 1)])[REPLY_TOPIC].result(10)
        results = topics.reader()
        replies = type(results)(stack.addresses.kafka, REPLY_TOPIC)
        producer = Producer({"bootstrap.servers": stack.addresses.kafka})
        producer.produce(topics.requests, value=request_codec.encode_request(request), key=b"k", headers=headers)
        producer.flush(10)
        found = []
        for reader in (results, replies):
            for result in reader.results(timeout_seconds=30):
                if result.headers.get("ce_subject") == b"order-1":
                    found.append(result)
                    break
            reader.close()
        first, second = found
        return first, second

    result, reply = await asyncio.to_thread(round_trip)
    assert result.value == reply.value
    outcome = outcome_codec.decode_outcome(result.value)
    assert outcome.outcome is Outcome.COMPLETED
    assert len(outcome.choices[0].token_ids) == 4
    assert result.headers["penstock-source-key"] == b"k"


async def test_a_record_posted_twice_under_one_event_id_is_run_once(stack: EmbeddedStack, topics: Topics) -> None:
    headers = [("ce_id", b"twice"), ("ce_source", b"/shop")]
    body = json.dumps({**CHAT, "temperature": 1.0}).encode()

    def round_trip() -> list[Result]:
        reader = topics.reader()
        producer = Producer({"bootstrap.servers": stack.addresses.kafka})
        for _ in range(2):
            producer.produce(topics.requests, value=body, headers=headers)
            producer.flush(10)
        found = [result for result in reader.results(timeout_seconds=5) if result.headers.get("ce_subject") == b"twice"]
        reader.close()
        return found

    found = await asyncio.to_thread(round_trip)
    assert found
    assert len({(result.request_id, result.value) for result in found}) == 1
