"""Nothing that the ledger writes about a request stays for ever."""

import pytest
from redis.asyncio import Redis

from shared.contracts.events import PublishedOutcome
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.ledger.ledger import Ledger
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk

pytestmark = pytest.mark.redis

OF_THE_INSTALLATION = {"epoch", "incarnations", "owned", "fence"}
"""One key each, or one for each worker that holds something; emptied by those who look for lost workers."""


async def lasting_keys(settings: RedisSettings) -> set[str]:
    """First words of the keys that never expire."""
    client = Redis.from_url(settings.url)
    try:
        keys = [key async for key in client.scan_iter(match=f"{settings.key_prefix}*")]
        lasting = [key for key in keys if await client.ttl(key) == -1]
    finally:
        await client.aclose()
    return {key.decode().removeprefix(settings.key_prefix).partition(":")[0] for key in lasting}


@pytest.fixture
async def ledger(redis_settings: RedisSettings) -> Ledger:
    ledger = Ledger(redis_settings)
    await ledger.open_epoch(is_refilled=False)
    return ledger


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    async def same() -> Ledger:
        return ledger

    return Bench(same, ledger)


async def test_every_key_of_a_request_expires_at_every_point_of_its_life(
    bench: Bench, redis_settings: RedisSettings
) -> None:
    ledger = bench.ledger
    seen: list[set[str]] = []

    async def look() -> None:
        seen.append(await lasting_keys(redis_settings) - OF_THE_INSTALLATION)

    await ledger.cancel(RequestId("f" * 32), reason="nobody knows it yet", tenant=None)
    await look()
    await ledger.register(bench.registration(), channel="gateway")
    await look()
    run = await bench.run(ALICE)
    await look()
    await bench.append(run.token, chunk(0, 1))
    await look()
    await ledger.drop_lease(ALICE)
    await ledger.orphan(bench.request_id, run.token)
    await look()
    run = await bench.run(BOB)
    await ledger.seal(bench.request_id, run.token, bench.outcome())
    await look()
    await ledger.finish(bench.request_id)
    await ledger.elect("leader", ttl_ms=1_000)
    await look()
    assert seen == [set()] * 7


async def test_what_was_put_back_after_a_loss_expires_too(bench: Bench, redis_settings: RedisSettings) -> None:
    ledger = bench.ledger
    await ledger.reclaim(bench.claim_request(), ClaimToken("t"), sealed=bench.outcome())
    assert await lasting_keys(redis_settings) - OF_THE_INSTALLATION == set()
    await ledger.restore(
        PublishedOutcome(outcome=bench.outcome(), tenant="", pool="default", coordinates=None),
    )
    await ledger.finish(RequestId("e" * 32))
    assert await lasting_keys(redis_settings) - OF_THE_INSTALLATION == set()


async def test_workers_that_are_gone_and_own_nothing_leave_no_key(bench: Bench, redis_settings: RedisSettings) -> None:
    run = await bench.run(ALICE)
    await bench.ledger.release(bench.request_id, run.token)
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.lost_incarnations() == []
    assert await lasting_keys(redis_settings) == {"epoch"}
