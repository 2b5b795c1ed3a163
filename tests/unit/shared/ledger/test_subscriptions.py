"""A channel's messages in order, and a lost connection that is told once: against a server that breaks on demand."""

import asyncio

import pytest

from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.ledger.connection import Connections
from shared.ledger.subscriptions import Subscription
from tests.fakes.scripted_redis import Command, scripted_redis


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


CONFIRMED = b"*3\r\n" + bulk(b"subscribe") + bulk(b"c") + b":1\r\n"
PONG = b"*2\r\n" + bulk(b"pong") + bulk(b"")


def message(data: bytes) -> bytes:
    return b"*3\r\n" + bulk(b"message") + bulk(b"c") + bulk(data)


def confirm(command: Command) -> bytes:
    return CONFIRMED if command[0] == b"SUBSCRIBE" else PONG


async def hear(subscription: Subscription) -> bytes | None:
    async with asyncio.timeout(10):
        return await anext(subscription)


async def test_messages_come_in_order_whatever_the_borders_of_the_reads() -> None:
    async with scripted_redis(echo=confirm) as redis, Subscription(Connections(redis.url), "c") as subscription:
        three = message(b"1") + message(b"2") + message(b"3")
        redis.answer(three[:50])
        redis.answer(three[50:])
        assert [await hear(subscription) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_message_that_comes_with_the_confirmation_is_not_lost() -> None:
    async with (
        scripted_redis(echo=lambda command: CONFIRMED + message(b"at once")) as redis,
        Subscription(Connections(redis.url), "c") as subscription,
    ):
        assert await hear(subscription) == b"at once"


async def test_a_lost_connection_is_told_after_what_was_heard_before_it() -> None:
    async with scripted_redis(echo=confirm) as redis, Subscription(Connections(redis.url), "c") as subscription:
        redis.answer(message(b"before"))
        redis.hang_up_after_writing()
        assert await hear(subscription) == b"before"
        assert await hear(subscription) is None
        redis.answer(message(b"after"))
        assert await hear(subscription) == b"after"
        assert redis.num_connections == 2


async def test_an_iteration_that_waits_ends_when_the_subscription_is_left() -> None:
    async with scripted_redis(echo=confirm) as redis:
        subscription = Subscription(Connections(redis.url), "c")
        async with subscription:
            waiting = asyncio.create_task(hear(subscription))
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_refused_channel_is_an_error_at_once() -> None:
    async with scripted_redis(echo=lambda command: b"-NOPERM not this channel\r\n") as redis:
        with pytest.raises(InvariantViolated, match="not this channel"):
            async with Subscription(Connections(redis.url), "c"):
                pass


async def test_a_server_that_hangs_up_instead_of_confirming_makes_the_ledger_unavailable() -> None:
    async with scripted_redis() as redis:
        entering = asyncio.create_task(Subscription(Connections(redis.url), "c").__aenter__())
        await redis.wait_for_commands(1)
        redis.hang_up()
        with pytest.raises(LedgerUnavailable):
            await entering
