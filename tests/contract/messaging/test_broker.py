"""The control topics on Apache Kafka, through FastStream."""

import asyncio

import pytest

from shared.contracts.errors import LedgerUnavailable
from shared.contracts.fleet import FleetCommand, FleetCommandKind, FleetEvent, FleetEventKind, Heartbeat, WorkerState
from shared.contracts.fleet_codec import encode_heartbeat
from shared.contracts.headers import SCHEMA_VERSION
from shared.contracts.identifiers import Incarnation, RequestId, WorkerId
from shared.contracts.requests import Cancellation
from shared.contracts.schema_version import OURS
from shared.contracts.topics import topic_specifications
from shared.messaging.admin import ensure_topics
from shared.messaging.broker import ControlBroker
from shared.messaging.topic_reading import read_topic
from tests.fixtures.kafka_harness import KafkaHarness, until

pytestmark = pytest.mark.kafka

REQUEST = RequestId("ab" * 16)


def _heartbeat(number: int) -> Heartbeat:
    return Heartbeat(
        worker_id=WorkerId("default-0"),
        incarnation=Incarnation("default-0.a"),
        sequence_number=number,
        sent_at_ms=1_000 + number,
        state=WorkerState.READY,
        pool="default",
        models=("m",),
        fingerprint="f",
        max_model_tokens=2048,
        partitions=(("inference.requests.default.interactive", 3),),
        running_requests=1,
        waiting_requests=2,
        max_running_requests=8,
        kv_blocks_total=100,
        kv_blocks_free=50,
        kv_block_tokens=16,
        output_tokens_per_second=12.5,
        outstanding_tokens=77,
        last_poll_age_ms=1,
        oldest_unfinished_age_ms=2,
        device="cpu",
        dtype="float32",
        version="0",
    )


@pytest.fixture
async def installation(harness: KafkaHarness) -> KafkaHarness:
    wanted = topic_specifications(harness.settings.topic_names, pools=("default",), request_partitions=1)
    await ensure_topics(harness.settings, wanted)
    return harness


async def test_everybody_hears_every_heartbeat_from_now_on(installation: KafkaHarness) -> None:
    settings = installation.settings
    heard: list[list[Heartbeat]] = [[], []]
    listeners = [ControlBroker(settings, client_id=f"listener{index}") for index in range(2)]
    for broker, into in zip(listeners, heard, strict=True):

        async def hear(heartbeat: Heartbeat, into: list[Heartbeat] = into) -> None:
            into.append(heartbeat)

        broker.on_heartbeat(hear)
    async with ControlBroker(settings, client_id="worker") as worker:
        await worker.publish_heartbeat(_heartbeat(1))  # before anybody listens
        async with listeners[0], listeners[1]:
            number = 2
            while not all(heard):
                await worker.publish_heartbeat(_heartbeat(number))
                number += 1
            await until(lambda: all(into[-1].sequence_number == number - 1 for into in heard))
    for into in heard:
        numbers = [heartbeat.sequence_number for heartbeat in into]
        assert 1 not in numbers
        assert numbers == list(range(numbers[0], number))
        assert into[-1] == _heartbeat(number - 1)


async def test_records_with_null_or_non_utf8_headers_or_undecodable_values_do_not_silence_the_topic(
    installation: KafkaHarness,
) -> None:
    names = installation.settings.topic_names
    heard: list[Heartbeat] = []

    async def hear(heartbeat: Heartbeat) -> None:
        heard.append(heartbeat)

    broker = ControlBroker(installation.settings, client_id="listener")
    broker.on_heartbeat(hear)
    odd = (("null", None), ("bytes", b"\xff\xfe"))
    async with broker:
        send = installation.producer.send
        while not heard:  # until the consumer stands at the end of the topic
            await broker.publish_heartbeat(_heartbeat(1))
        heard.clear()
        await send(names.heartbeats, key=b"k", value=b"\xff\xff not a heartbeat", headers=odd)
        await send(names.heartbeats, key=b"k", value=None, headers=odd)
        await send(names.heartbeats, key=b"k", value=encode_heartbeat(_heartbeat(9)), headers=odd)
        await until(lambda: any(heartbeat.sequence_number == 9 for heartbeat in heard))


async def test_control_records_say_the_version_of_their_contract(installation: KafkaHarness) -> None:
    settings = installation.settings
    async with ControlBroker(settings, client_id="any") as broker:
        await broker.publish_heartbeat(_heartbeat(1))
        await broker.publish_cancellation(REQUEST, tenant=None, reason="gone")
    for topic in (settings.topic_names.heartbeats, settings.topic_names.cancellations):
        (record,) = [record async for record in read_topic(settings, topic)]
        assert record.header(SCHEMA_VERSION) == str(OURS).encode()


async def test_a_neighbour_of_another_minor_release_is_heard_and_one_of_a_newer_major_is_passed_over(
    installation: KafkaHarness,
) -> None:
    names, heard = installation.settings.topic_names, list[int]()

    async def hear(heartbeat: Heartbeat) -> None:
        heard.append(heartbeat.sequence_number)

    broker = ControlBroker(installation.settings, client_id="listener")
    broker.on_heartbeat(hear)
    writers = (f"{OURS.major}.{OURS.minor + 1}", None, f"{OURS.major + 1}.0", "newest", str(OURS))
    async with broker:
        while not heard:  # until the consumer stands at the end of the topic
            await broker.publish_heartbeat(_heartbeat(1))
        for number, version in enumerate(writers, start=10):
            headers = () if version is None else ((SCHEMA_VERSION, version.encode()),)
            unknown_field = b"\xb8\x3e\x01"
            value = encode_heartbeat(_heartbeat(number)) + unknown_field
            await installation.producer.send(names.heartbeats, key=b"k", value=value, headers=headers)
        await until(lambda: 14 in heard)
    assert [number for number in heard if number >= 10] == [10, 11, 14]


async def test_commands_and_events_arrive(installation: KafkaHarness) -> None:
    commands: list[FleetCommand] = []
    events: list[FleetEvent] = []

    async def obey(command: FleetCommand) -> None:
        commands.append(command)

    async def note(event: FleetEvent) -> None:
        events.append(event)

    broker = ControlBroker(installation.settings, client_id="both")
    broker.on_command(obey)
    broker.on_event(note)
    command = FleetCommand(
        kind=FleetCommandKind.DRAIN, worker_id=WorkerId("default-0"), issued_at_ms=5, reason="maintenance"
    )
    event = FleetEvent(
        kind=FleetEventKind.WORKER_LOST,
        worker_id=WorkerId("default-0"),
        incarnation=Incarnation("default-0.a"),
        occurred_at_ms=6,
        detail="lease ended",
    )
    async with broker:
        while not (commands and events):
            await broker.publish_command(command)
            await broker.publish_event(event)
    assert commands[0] == command
    assert events[0] == event


async def test_cancellations_posted_while_nobody_is_up_are_heard_once_by_the_group(
    installation: KafkaHarness,
) -> None:
    heard: list[Cancellation] = []

    async def cancel(cancellation: Cancellation) -> None:
        heard.append(cancellation)

    settings = installation.settings
    async with ControlBroker(settings, client_id="gateway") as gateway:
        await gateway.publish_cancellation(REQUEST, tenant="t", reason="gone")
    first, second = (ControlBroker(settings, client_id=f"worker{index}") for index in range(2))
    first.on_cancellation(cancel)
    second.on_cancellation(cancel)
    async with first:
        await until(lambda: heard)
        async with second:
            await until(lambda: len(heard) == 1)
    async with ControlBroker(settings, client_id="gateway") as gateway, second_after(settings, cancel):
        await gateway.publish_cancellation(RequestId("cd" * 16), tenant=None, reason="later")
        await until(lambda: len(heard) >= 2)
    assert [cancellation.request_id for cancellation in heard] == [REQUEST, "cd" * 16]


def second_after(settings, cancel) -> ControlBroker:  # type: ignore[no-untyped-def]
    broker = ControlBroker(settings, client_id="restarted")
    broker.on_cancellation(cancel)
    return broker


async def test_a_cancellation_that_could_not_be_written_is_heard_again(
    installation: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.broker._RETRY_SECONDS", 0.01)
    heard: list[Cancellation] = []

    async def cancel(cancellation: Cancellation) -> None:
        heard.append(cancellation)
        if len(heard) < 3:
            raise LedgerUnavailable("not now")

    broker = ControlBroker(installation.settings, client_id="worker")
    broker.on_cancellation(cancel)
    async with broker:
        await broker.publish_cancellation(REQUEST, tenant=None, reason="gone")
        await until(lambda: len(heard) >= 3)
        assert {cancellation.request_id for cancellation in heard} == {REQUEST}
        await asyncio.sleep(0)
