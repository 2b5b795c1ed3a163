"""Redis dies, restarts, forgets and stalls; the ledger says so and finds back by itself."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from services.cli.embedded.ports import free_port
from services.cli.embedded.redis import EmbeddedRedis
from shared.contracts.errors import InvariantViolated, LedgerUnavailable
from shared.contracts.events import Outcome
from shared.contracts.identifiers import ClaimToken
from shared.ledger.breaker import redis_breaker
from shared.ledger.ledger import Ledger
from shared.ledger.records import Held, RegisterStatus, Run, StreamMessage
from shared.resilience.breaker_rules import BreakerState
from shared.resilience.clock import ManualClock
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk

pytestmark = pytest.mark.redis


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
async def ledger(server: EmbeddedRedis) -> AsyncIterator[Ledger]:
    async with Ledger(RedisSettings(url=server.url)) as ledger:
        await ledger.open_epoch(is_refilled=False)
        yield ledger


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    async def same() -> Ledger:
        return ledger

    return Bench(same, ledger)


async def test_without_redis_every_verb_says_that_the_ledger_is_unavailable() -> None:
    async with Ledger(RedisSettings(url=f"redis://127.0.0.1:{free_port()}/0")) as ledger:

        async def same() -> Ledger:
            return ledger

        bench = Bench(same, ledger)
        questions = [
            ledger.ping(),
            ledger.register(bench.registration(), channel=None),
            bench.claim(),
            bench.append(ClaimToken("token"), chunk(0, 1)),
            ledger.finish(bench.request_id),
            ledger.refresh_lease(ALICE),
            ledger.drop_lease(ALICE),
            ledger.lost_incarnations(),
            ledger.elect("x", ttl_ms=1000),
        ]
        for question in questions:
            with pytest.raises(LedgerUnavailable):
                await question
        with pytest.raises(LedgerUnavailable):
            async with ledger.listen("gateway"):
                pass


async def test_after_a_restart_of_redis_every_verb_works_again(server: EmbeddedRedis, bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1))
    server.kill()
    with pytest.raises(LedgerUnavailable):
        await bench.append(run.token, chunk(1, 2))
    server.start()
    await bench.ledger.open_epoch(is_refilled=True)
    assert (await bench.ledger.register(bench.registration(), channel=None)).status is RegisterStatus.NEW
    again = await bench.run(BOB)
    assert again.token != run.token
    assert (await bench.append(run.token, chunk(0, 1))).status.value == "fenced"
    assert (await bench.append(again.token, chunk(0, 1))).status.value == "ok"


async def test_a_listener_is_told_that_its_connection_was_lost_and_hears_again(
    server: EmbeddedRedis, bench: Bench
) -> None:
    async with bench.ledger.listen("gateway") as messages, asyncio.timeout(30):
        server.kill()
        server.start()
        (marker,) = await anext(messages)
        assert marker.is_lost_marker
        await bench.ledger.open_epoch(is_refilled=True)
        await bench.ledger.register(bench.registration(), channel="gateway")
        await bench.append((await bench.run()).token, chunk(0, 1))
        assert await anext(messages) == [StreamMessage(request_id=bench.request_id, chunk=chunk(0, 1))]


async def test_scripts_that_redis_has_forgotten_are_sent_again(server: EmbeddedRedis, bench: Bench) -> None:
    await bench.run()
    client = Redis.from_url(server.url)
    await client.script_flush()
    await client.aclose()
    assert await bench.claim(BOB) == Held(by=ALICE)


async def test_a_claim_whose_answer_was_lost_is_the_same_claim_when_repeated(bench: Bench) -> None:
    """Else a few lost answers would poison a healthy request."""
    for _ in range(5):
        lost = await bench.run(max_attempts=2)
        bench.ledger._unanswered_claims[bench.request_id, ALICE] = lost.token
    repeated = await bench.claim(max_attempts=2)
    assert isinstance(repeated, Run)
    assert (repeated.token, repeated.attempt, repeated.lost_claims) == (lost.token, 1, 0)


async def test_a_claim_that_fails_keeps_its_token_for_the_repeat(server: EmbeddedRedis, bench: Bench) -> None:
    server.kill()
    with pytest.raises(LedgerUnavailable):
        await bench.claim()
    (token,) = bench.ledger._unanswered_claims.values()
    server.start()
    await bench.ledger.open_epoch(is_refilled=True)
    assert (await bench.run()).token == token
    assert not bench.ledger._unanswered_claims


async def test_a_server_that_never_answers_makes_the_ledger_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        async with Ledger(RedisSettings(url=url)) as ledger:
            with pytest.raises(LedgerUnavailable):
                async with asyncio.timeout(30):
                    await ledger.ping()


async def test_a_refused_command_is_our_own_bug(server: EmbeddedRedis, bench: Bench) -> None:
    client = Redis.from_url(server.url)
    await client.set(f"penstock:request:{bench.request_id}", "not a hash")
    await client.aclose()
    with pytest.raises(InvariantViolated, match="WRONGTYPE"):
        await bench.run()


async def test_a_finished_request_outlives_its_log_and_outcome(server: EmbeddedRedis, bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1))
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome(Outcome.COMPLETED))
    client = Redis.from_url(server.url)
    names = [f"penstock:{kind}:{bench.request_id}" for kind in ("request", "log", "outcome")]
    before = [await client.ttl(name) for name in names]
    assert min(before) > 600_000
    await bench.ledger.finish(bench.request_id)
    done, log, outcome = [await client.ttl(name) for name in names]
    assert done > 600_000
    assert log <= 3_600
    assert outcome <= 3_600
    assert await client.exists("penstock:owned:alice.1") == 0
    await client.aclose()


async def test_with_a_breaker_a_redis_that_is_away_is_refused_at_once_and_found_again() -> None:
    clock = ManualClock()
    port = free_port()
    settings = RedisSettings(url=f"redis://127.0.0.1:{port}/0", breaker_failures=2, breaker_open_ms=1_000)
    breaker = redis_breaker(settings, clock=clock)
    async with Ledger(settings, breaker=breaker) as ledger:
        for _ in range(2):
            with pytest.raises(LedgerUnavailable, match="does not answer"):
                await ledger.ping()
        with pytest.raises(LedgerUnavailable, match="left alone"):
            await ledger.ping()
        with EmbeddedRedis(port=port):
            clock.move(1)
            for _ in range(3):
                await ledger.ping()
            assert breaker.state is BreakerState.CLOSED
