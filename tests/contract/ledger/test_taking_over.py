"""Leases, lost workers, verdicts that must be kept, and who leads."""

import asyncio

import pytest

from shared.contracts.errors import InvariantViolated
from shared.contracts.events import Outcome
from shared.contracts.identifiers import Incarnation
from shared.contracts.requests import Coordinates, Lane
from shared.ledger.records import AppendStatus, Ended, Held, OwnedRequest, RequestState, Run, Sealed
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk


async def test_an_incarnation_without_a_lease_is_lost_only_while_it_owns_something(bench: Bench) -> None:
    run = await bench.run(ALICE)
    assert await bench.ledger.lost_incarnations() == []
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.lost_incarnations() == [ALICE]
    await bench.ledger.refresh_lease(ALICE)
    assert await bench.ledger.lost_incarnations() == []
    await bench.ledger.drop_lease(ALICE)
    await bench.ledger.release(bench.request_id, run.token)
    assert await bench.ledger.lost_incarnations() == []
    await bench.run(ALICE)
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.lost_incarnations() == [ALICE]


async def test_who_has_no_lease_is_told_of_any_incarnation_whether_it_owns_something_or_not(bench: Bench) -> None:
    await bench.ledger.refresh_lease(ALICE)
    assert await bench.ledger.without_lease([]) == []
    assert await bench.ledger.without_lease([BOB, ALICE]) == [BOB]
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.without_lease([BOB, ALICE]) == [BOB, ALICE]


async def test_owned_names_everything_that_is_needed_to_hand_a_request_on(bench: Bench) -> None:
    assert await bench.ledger.owned(ALICE) == []
    run = await bench.run(ALICE, deadline_ms=2**42)
    assert await bench.ledger.owned(ALICE) == [
        OwnedRequest(
            request_id=bench.request_id, token=run.token, pool="default", lane=Lane.BULK, tenant="acme",
            coordinates=Coordinates(topic="requests", partition=3, offset=2**40, timestamp_ms=5),
            deadline_ms=2**42, attempt=1, state=RequestState.RUNNING,
            trace_headers=(("traceparent", "00-aa-bb-01"),),
        )
    ]  # fmt: skip


async def test_a_request_is_owned_by_its_holder_only_and_by_nobody_once_finished(bench: Bench) -> None:
    await bench.run(ALICE)
    await bench.ledger.drop_lease(ALICE)
    run = await bench.run(BOB)
    assert await bench.ledger.owned(ALICE) == []
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
    (owned,) = await bench.ledger.owned(BOB)
    assert owned.state is RequestState.SEALED
    await bench.ledger.finish(bench.request_id)
    assert await bench.ledger.owned(BOB) == []


async def test_orphan_takes_a_lost_worker_s_request_once(bench: Bench) -> None:
    run = await bench.run(ALICE)
    assert not await bench.ledger.orphan(bench.request_id, run.token)
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.orphan(bench.request_id, run.token)
    assert not await bench.ledger.orphan(bench.request_id, run.token)
    assert await bench.ledger.owned(ALICE) == []
    assert (await bench.append(run.token, chunk(0, 1))).status is AppendStatus.FENCED
    resumed = await bench.run(BOB)
    assert resumed.lost_claims == 1


async def test_orphan_leaves_a_new_holder_alone(bench: Bench) -> None:
    lost = await bench.run(ALICE)
    await bench.ledger.drop_lease(ALICE)
    await bench.run(BOB)
    await bench.ledger.drop_lease(BOB)
    assert not await bench.ledger.orphan(bench.request_id, lost.token)
    (owned,) = await bench.ledger.owned(BOB)
    assert owned.token != lost.token


async def test_a_sealed_request_of_a_lost_worker_can_be_handed_on(bench: Bench) -> None:
    run = await bench.run(ALICE)
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome())
    await bench.ledger.drop_lease(ALICE)
    assert await bench.ledger.orphan(bench.request_id, run.token)
    assert await bench.ledger.lost_incarnations() == []
    assert await bench.claim(BOB) == Sealed(outcome=bench.outcome())


async def test_a_lease_lapses_by_itself(bench: Bench) -> None:
    await bench.run(ALICE)
    async with asyncio.timeout(20):
        while isinstance(answer := await bench.claim(BOB), Held):
            await asyncio.sleep(0.05)
    assert isinstance(answer, Run)


async def test_a_verdict_can_only_be_sealed_as_itself(bench: Bench) -> None:
    await bench.ledger.cancel(bench.request_id, reason="user", tenant=None)
    ended = await bench.claim(ALICE)
    assert isinstance(ended, Ended)
    for outcome in (Outcome.COMPLETED, Outcome.EXPIRED, Outcome.FAILED):
        with pytest.raises(InvariantViolated, match="verdict cancelled"):
            await bench.ledger.seal(bench.request_id, ended.token, bench.outcome(outcome))
    cancelled = bench.outcome(Outcome.CANCELLED)
    assert await bench.ledger.seal(bench.request_id, ended.token, cancelled) == Sealed(outcome=cancelled)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.DEAD_LETTERED])
async def test_a_poisoned_request_is_sealed_as_failed_or_dead_lettered(bench: Bench, outcome: Outcome) -> None:
    await bench.run(ALICE, max_attempts=1)
    ended = await bench.claim(ALICE, max_attempts=1)
    assert isinstance(ended, Ended)
    sealed = bench.outcome(outcome)
    assert await bench.ledger.seal(bench.request_id, ended.token, sealed) == Sealed(outcome=sealed)


async def test_one_candidate_leads_and_the_fencing_number_grows_with_each_leadership(bench: Bench) -> None:
    other = await bench.open_ledger()
    first = await bench.ledger.elect("supervisor", ttl_ms=60_000)
    assert first is not None
    assert await bench.ledger.elect("supervisor", ttl_ms=60_000) == first
    assert await other.elect("supervisor", ttl_ms=60_000) is None
    assert await other.elect("something else", ttl_ms=60_000) == 1
    assert not await other.resign("supervisor")
    assert await bench.ledger.resign("supervisor")
    assert await other.elect("supervisor", ttl_ms=60_000) == first + 1


async def test_a_silent_leader_is_replaced(bench: Bench) -> None:
    other = await bench.open_ledger()
    first = await bench.ledger.elect("supervisor", ttl_ms=50)
    async with asyncio.timeout(20):
        while (second := await other.elect("supervisor", ttl_ms=60_000)) is None:
            await asyncio.sleep(0.01)
    assert first is not None
    assert second > first
    assert await bench.ledger.elect("supervisor", ttl_ms=50) is None


async def test_workers_with_odd_names_are_told_apart(bench: Bench) -> None:
    odd = Incarnation("wörker \n{1}.x")
    run = await bench.run(odd)
    assert await bench.claim(BOB) == Held(by=odd)
    assert [owned.token for owned in await bench.ledger.owned(odd)] == [run.token]
    await bench.ledger.drop_lease(odd)
    assert await bench.ledger.lost_incarnations() == [odd]
