"""Group commit: what leaves together, who gets which answer, and what everybody hears when the connection breaks."""

import asyncio

import pytest
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.cli.embedded.ports import free_port
from shared.ledger.pipeline import Pipeline
from tests.fakes.scripted_redis import Command, ScriptedRedis, scripted_redis

OK = b"+OK\r\n"


def number(value: int) -> bytes:
    return b":%d\r\n" % value


def pipeline_to(url: str, *, answer_timeout_seconds: float = 5.0) -> Pipeline:
    factory = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, socket_connect_timeout=2.0)

    def new() -> AbstractConnection:
        connection: AbstractConnection = factory.make_connection()
        return connection

    return Pipeline(new, answer_timeout_seconds=answer_timeout_seconds)


async def connected(redis: ScriptedRedis, *, answer_timeout_seconds: float = 5.0) -> Pipeline:
    """A pipeline that has asked one question and has its answer."""
    pipeline = pipeline_to(redis.url, answer_timeout_seconds=answer_timeout_seconds)
    first = pipeline.ask("FIRST")
    await redis.wait_for_commands(1)
    redis.answer(OK)
    assert await first == b"OK"
    return pipeline


async def test_questions_of_one_turn_leave_together_and_are_answered_in_order() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        asked = [pipeline.ask("GET", index) for index in range(3)]
        await redis.wait_for_commands(4)
        assert redis.batches[1] == [[b"GET", b"0"], [b"GET", b"1"], [b"GET", b"2"]]
        redis.answer(number(10), number(11), number(12))
        assert [await answer for answer in asked] == [10, 11, 12]
        await pipeline.close()


async def test_what_is_asked_while_an_answer_is_awaited_leaves_when_it_has_come() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        under_way = pipeline.ask("SLOW")
        await redis.wait_for_commands(2)
        later = [pipeline.ask("GET", index) for index in range(5)]
        await asyncio.sleep(0)
        assert len(redis.commands) == 2
        redis.answer(OK)
        await under_way
        await redis.wait_for_commands(7)
        assert len(redis.batches) == 3, "all five in one exchange"
        redis.answer(*map(number, range(5)))
        assert await asyncio.gather(*later) == [0, 1, 2, 3, 4]
        await pipeline.close()


async def test_what_an_answer_makes_its_asker_ask_leaves_with_what_was_waiting() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)

        async def ask_twice() -> None:
            await pipeline.ask("ONE")
            await pipeline.ask("TWO")

        task = asyncio.create_task(ask_twice())
        await redis.wait_for_commands(2)
        waiting = pipeline.ask("WAITING")
        redis.answer(OK)
        await redis.wait_for_commands(4)
        assert redis.batches[-1] == [[b"WAITING"], [b"TWO"]]
        redis.answer(OK, OK)
        await task
        await waiting
        await pipeline.close()


async def test_an_error_of_redis_goes_to_whoever_asked_and_to_nobody_else() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        good, bad, unknown = pipeline.ask("GOOD"), pipeline.ask("BAD"), pipeline.ask("UNKNOWN")
        await redis.wait_for_commands(4)
        redis.answer(OK, b"-WRONGTYPE it is no hash\r\n", b"-NOSCRIPT no such script\r\n")
        assert await good == b"OK"
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await bad
        with pytest.raises(NoScriptError):
            await unknown
        await pipeline.close()


async def test_a_question_whose_asker_has_gone_takes_no_other_ones_answer() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        gone, staying = pipeline.ask("GONE"), pipeline.ask("STAYING")
        await redis.wait_for_commands(3)
        gone.cancel()
        redis.answer(number(1), number(2))
        assert await staying == 2
        await pipeline.close()


async def test_a_lost_connection_fails_what_was_sent_and_the_next_question_connects_again() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        sent = pipeline.ask("SENT")
        await redis.wait_for_commands(2)
        redis.hang_up()
        with pytest.raises(RedisConnectionError):
            await sent
        again = pipeline.ask("AGAIN")
        await redis.wait_for_commands(3)
        redis.answer(number(7))
        assert await again == 7
        assert redis.num_connections == 2
        await pipeline.close()


async def test_what_was_not_sent_yet_when_the_connection_broke_is_sent_on_the_next() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        sent = pipeline.ask("SENT")
        await redis.wait_for_commands(2)
        queued = pipeline.ask("QUEUED")
        redis.hang_up()
        with pytest.raises(RedisConnectionError):
            await sent
        await redis.wait_for_commands(3)
        assert redis.commands[-1] == [b"QUEUED"]
        redis.answer(OK)
        assert await queued == b"OK"
        await pipeline.close()


async def test_a_server_that_stops_answering_is_left_after_the_timeout() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis, answer_timeout_seconds=0.05)
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(pipeline.ask("NOTHING"), 5)
        again = pipeline.ask("AGAIN")
        await redis.wait_for_commands(3)
        redis.answer(OK)
        assert await again == b"OK"
        await pipeline.close()


async def test_rubbish_on_the_connection_is_a_lost_connection() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        asked = pipeline.ask("GET")
        await redis.wait_for_commands(2)
        redis.answer(b"this is not Redis\r\n")
        with pytest.raises(RedisConnectionError, match="protocol"):
            await asked
        await pipeline.close()


async def test_every_waiting_question_fails_when_nobody_listens() -> None:
    pipeline = pipeline_to(f"redis://127.0.0.1:{free_port()}/0")
    answers = await asyncio.gather(*(pipeline.ask("GET", index) for index in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RedisConnectionError] * 3
    await pipeline.close()


async def test_closing_fails_what_is_not_answered() -> None:
    async with scripted_redis() as redis:
        pipeline = await connected(redis)
        asked = pipeline.ask("GET")
        await redis.wait_for_commands(2)
        await pipeline.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await asked


async def test_many_askers_make_few_exchanges() -> None:
    """The point of it all: 200 questions of 20 askers take about as many exchanges as one asker has questions."""

    def echo(command: Command) -> bytes:
        return number(int(command[1]))

    async with scripted_redis(echo=echo) as redis:
        pipeline = pipeline_to(redis.url)

        async def ask(asker: int) -> list[int]:
            return [await pipeline.ask("GET", 10 * asker + index) for index in range(10)]

        answers = await asyncio.gather(*map(ask, range(20)))
        assert [value for part in answers for value in part] == list(range(200))
        assert len(redis.batches) <= 20
        await pipeline.close()
