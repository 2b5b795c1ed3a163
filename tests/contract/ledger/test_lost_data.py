"""Redis came back empty (line 14): claims wait, living holders put theirs back, published outcomes return."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from shared.contracts.events import PublishedOutcome
from shared.contracts.identifiers import ClaimToken
from shared.contracts.requests import Coordinates
from shared.ledger.ledger import Ledger
from shared.ledger.records import (
    AppendStatus,
    Epoch,
    Fenced,
    Finished,
    Held,
    Recovering,
    RegisterStatus,
    RequestState,
    Run,
    Sealed,
)
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import Store

WHERE = Coordinates(topic="requests", partition=3, offset=7, timestamp_ms=5)
TOKEN = ClaimToken("of-before")


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "memory"])
async def empty(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A ledger whose Redis remembers nothing."""
    store = Store(epoch=None)
    settings: RedisSettings | None = request.getfixturevalue("redis_settings") if request.param == "redis" else None
    async with AsyncExitStack() as stack:

        async def open_ledger() -> Ledger:
            if settings is not None:
                return await stack.enter_async_context(Ledger(settings))
            return await stack.enter_async_context(InMemoryLedger(store=store))  # type: ignore[arg-type]

        yield Bench(open_ledger, await open_ledger())


def published(bench: Bench) -> PublishedOutcome:
    return PublishedOutcome(outcome=bench.outcome(), tenant="acme", pool="default", coordinates=WHERE)


async def test_claims_wait_until_somebody_opens_the_epoch(empty: Bench) -> None:
    assert await empty.claim() == Recovering()
    await empty.ledger.open_epoch(is_refilled=True)
    assert isinstance(await empty.claim(), Run)


async def test_the_first_to_open_names_the_epoch(empty: Bench) -> None:
    first = await empty.ledger.open_epoch(is_refilled=True)
    assert first.is_refilled
    assert await empty.ledger.open_epoch(is_refilled=False) == first
    assert await empty.ledger.epoch() == first


async def test_a_refreshed_lease_tells_the_epoch(empty: Bench) -> None:
    assert await empty.ledger.refresh_lease(ALICE) is None
    assert await empty.ledger.epoch() is None
    epoch = await empty.ledger.open_epoch(is_refilled=False)
    assert isinstance(epoch, Epoch)
    assert await empty.ledger.refresh_lease(ALICE) == epoch
    assert await empty.ledger.without_lease([ALICE, BOB]) == [BOB]


async def test_a_living_holder_goes_on_under_its_token_while_claims_wait(empty: Bench) -> None:
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN)
    behind = await empty.append(TOKEN, chunk(2, 12))
    assert (behind.status, behind.next_positions) == (AppendStatus.BEHIND, {0: 0})
    assert (await empty.append(TOKEN, chunk(0, 10, 11, 12))).status is AppendStatus.OK
    assert await empty.claim(BOB) == Recovering()
    await empty.ledger.open_epoch(is_refilled=True)
    assert await empty.claim(BOB) == Held(by=ALICE)


async def test_a_claim_put_back_is_taken_over_like_any_other_when_its_holder_dies(empty: Bench) -> None:
    await empty.ledger.open_epoch(is_refilled=True)
    await empty.ledger.reclaim(empty.claim_request(), TOKEN)
    await empty.append(TOKEN, chunk(0, 10))
    await empty.ledger.drop_lease(ALICE)
    assert await empty.ledger.lost_incarnations() == [ALICE]
    (owned,) = await empty.ledger.owned(ALICE)
    assert owned.coordinates == empty.claim_request().coordinates
    assert await empty.ledger.orphan(empty.request_id, owned.token)
    run = await empty.run(BOB)
    assert (run.chunks, run.lost_claims) == ([chunk(0, 10)], 1)


async def test_putting_back_twice_is_putting_back_once(empty: Bench) -> None:
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN)
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN)


async def test_who_was_overtaken_cannot_put_its_claim_back(empty: Bench) -> None:
    await empty.ledger.open_epoch(is_refilled=True)
    run = await empty.run(BOB)
    assert not await empty.ledger.reclaim(empty.claim_request(ALICE), TOKEN)
    await empty.ledger.release(empty.request_id, run.token)
    assert not await empty.ledger.reclaim(empty.claim_request(ALICE), TOKEN), "it was claimed since"
    assert (await empty.append(TOKEN, chunk(0, 10))).status is AppendStatus.FENCED


async def test_another_body_cannot_be_put_back_under_the_same_id(empty: Bench) -> None:
    await empty.ledger.register(empty.registration(fingerprint="f2"), channel=None)
    assert not await empty.ledger.reclaim(empty.claim_request(), TOKEN)


async def test_a_gateway_that_registers_first_does_not_shut_the_holder_out(empty: Bench) -> None:
    answer = await empty.ledger.register(empty.registration(), channel="gateway")
    assert answer.status is RegisterStatus.NEW
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN)
    assert (await empty.append(TOKEN, chunk(0, 10))).status is AppendStatus.OK


async def test_a_cancellation_that_was_put_back_first_reaches_the_holder(empty: Bench) -> None:
    await empty.ledger.cancel(empty.request_id, reason="enough", tenant=None)
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN)
    assert (await empty.append(TOKEN, chunk(0, 10))).cancel_requested


async def test_a_seal_on_its_way_is_put_back_with_its_claim(empty: Bench) -> None:
    assert await empty.ledger.reclaim(empty.claim_request(), TOKEN, sealed=empty.outcome())
    await empty.ledger.open_epoch(is_refilled=True)
    assert await empty.claim(BOB) == Sealed(outcome=empty.outcome())
    assert await empty.ledger.finish(empty.request_id)
    assert await empty.claim(BOB) == Finished()


async def test_a_seal_on_its_way_wins_over_a_zombie_s_claim_that_was_put_back_first(empty: Bench) -> None:
    assert await empty.ledger.reclaim(empty.claim_request(ALICE), ClaimToken("of a stopped worker"))
    assert await empty.ledger.reclaim(empty.claim_request(BOB), TOKEN, sealed=empty.outcome())
    (answer,) = [await empty.append(ClaimToken("of a stopped worker"), chunk(0, 10))]
    assert answer.status is AppendStatus.FENCED
    assert await empty.ledger.owned(ALICE) == []
    await empty.ledger.open_epoch(is_refilled=True)
    assert await empty.claim(ALICE) == Sealed(outcome=empty.outcome())


async def test_a_published_outcome_comes_back_readable_and_is_never_computed_again(empty: Bench) -> None:
    assert await empty.ledger.restore(published(empty))
    assert not await empty.ledger.restore(published(empty)), "once is enough"
    assert await empty.claim() == Finished(), "even while Redis is refilled"
    answer = await empty.ledger.register(empty.registration(), channel=None)
    assert (answer.status, answer.state) == (RegisterStatus.EXISTING, RequestState.FINISHED)
    record = await empty.ledger.describe(empty.request_id)
    assert record is not None
    assert (record.state, record.sealed, record.tenant, record.pool) == (
        RequestState.FINISHED,
        empty.outcome(),
        "acme",
        "default",
    )
    assert record.coordinates == WHERE, "its record can be found, and its stream be rendered again"


async def test_what_was_published_counts_against_whoever_began_it_again(empty: Bench) -> None:
    await empty.ledger.open_epoch(is_refilled=True)
    run = await empty.run(BOB)
    assert await empty.ledger.restore(published(empty))
    assert (await empty.append(run.token, chunk(0, 10))).status is AppendStatus.FENCED
    other = replace(empty.outcome(), value=b"other")
    answer = await empty.ledger.seal(empty.request_id, run.token, other)
    assert answer in (Sealed(outcome=empty.outcome()), Fenced())


async def test_who_waits_for_the_outcome_is_told_when_it_is_put_back(empty: Bench) -> None:
    async with empty.ledger.listen("gateway") as batches:
        await empty.ledger.register(empty.registration(), channel="gateway")
        await empty.ledger.restore(published(empty))
        (message,) = await anext(batches)
    assert (message.request_id, message.terminal) == (empty.request_id, empty.outcome())


async def test_a_marker_without_its_outcome_gets_it_back(empty: Bench) -> None:
    assert not await empty.ledger.finish(empty.request_id)
    assert await empty.ledger.describe(empty.request_id) is None
    assert await empty.ledger.restore(published(empty))
    assert await empty.ledger.finish(empty.request_id)
    record = await empty.ledger.describe(empty.request_id)
    assert record is not None
    assert record.sealed == empty.outcome()
