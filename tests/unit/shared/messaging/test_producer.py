"""What a producer does when the client inside it falls silent; what real Kafka does is in the contract tests."""

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.messaging import producer as module
from shared.messaging.breaker import kafka_breaker
from shared.messaging.producer import RecordProducer
from shared.resilience.clock import ManualClock
from shared.settings.kafka import KafkaSettings


class Client:
    """aiokafka's producer as far as ours uses it. The first `num_silent` never come back from `send`.

    Seen in aiokafka 0.14: `send` waits for a metadata update, and closing the client ends the task that makes it.
    """

    made: ClassVar[list["Client"]] = []
    num_silent = 0

    def __init__(self, **_: Any) -> None:
        self.is_silent = len(self.made) < self.num_silent
        self.is_stopped = False
        self.made.append(self)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.is_stopped = True

    async def send(self, **_: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_silent:
            await answer
        answer.set_result(SimpleNamespace(topic="t", partition=0, offset=7, timestamp=5))
        return answer


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(module, "AIOKafkaProducer", Client)
    monkeypatch.setattr(Client, "made", [])
    return Client


def a_producer() -> RecordProducer:
    return RecordProducer(KafkaSettings(), client_id="test", timeout_seconds=0.02)


async def test_a_send_that_is_never_woken_up_is_an_answer_within_the_time_limit(clients: type[Client]) -> None:
    clients.num_silent = 1
    async with asyncio.timeout(5), a_producer() as producer:
        with pytest.raises(BrokerUnavailable):
            await producer.send("t", key=None, value=b"x")


async def test_the_next_send_after_a_silent_one_has_a_client_of_its_own(clients: type[Client]) -> None:
    clients.num_silent = 1
    async with asyncio.timeout(5), a_producer() as producer:
        with pytest.raises(BrokerUnavailable):
            await producer.send("t", key=None, value=b"x")
        assert (await producer.send("t", key=None, value=b"x")).offset == 7
    assert len(clients.made) == 2
    assert all(client.is_stopped for client in clients.made)


async def test_one_client_serves_as_long_as_it_answers(clients: type[Client]) -> None:
    clients.num_silent = 0
    async with a_producer() as producer:
        for _ in range(3):
            await producer.send("t", key=None, value=b"x")
    assert len(clients.made) == 1


async def test_after_failures_in_a_row_sends_are_refused_at_once_and_tried_again_later(clients: type[Client]) -> None:
    clients.num_silent = 2
    clock = ManualClock()
    settings = KafkaSettings(breaker_failures=2, breaker_open_ms=1_000)
    breaker = kafka_breaker(settings, clock=clock, name="test")
    async with (
        asyncio.timeout(5),
        RecordProducer(settings, client_id="test", timeout_seconds=0.02, breaker=breaker) as producer,
    ):
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="acknowledge a record"):
                await producer.send("t", key=None, value=b"x")
        with pytest.raises(BrokerUnavailable, match="left alone"):
            await producer.send("t", key=None, value=b"x")
        assert len(clients.made) == 2, "the refused send asked for no client"
        clock.move(1)
        assert (await producer.send("t", key=None, value=b"x")).offset == 7
