"""Who may run a request, and what everybody else is told."""

import asyncio

import pytest

from shared.contracts.events import FinishReason, Outcome
from shared.contracts.requests import Coordinates, Lane
from shared.ledger.records import (
    AppendStatus,
    Conflict,
    Ended,
    Fenced,
    Finished,
    Held,
    RegisterStatus,
    RequestState,
    Run,
    Sealed,
    Verdict,
)
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk, now_ms


async def test_a_new_request_is_new_once_and_may_be_published_again_until_it_is_claimed(bench: Bench) -> None:
    first = await bench.ledger.register(bench.registration(), channel="gateway")
    assert (first.status, first.state) == (RegisterStatus.NEW, RequestState.WAITING)
    again = await bench.ledger.register(bench.registration(), channel="gateway")
    assert (again.status, again.state) == (RegisterStatus.EXISTING, RequestState.WAITING)
    assert first.should_publish
    assert again.should_publish
    await bench.run()
    claimed = await bench.ledger.register(bench.registration(), channel="gateway")
    assert claimed.state is RequestState.RUNNING
    assert not claimed.should_publish


async def test_another_body_under_a_known_id_is_a_conflict_for_register_and_claim(bench: Bench) -> None:
    await bench.ledger.register(bench.registration(), channel=None)
    answer = await bench.ledger.register(bench.registration(fingerprint="f2"), channel=None)
    assert (answer.status, answer.state) == (RegisterStatus.CONFLICT, None)
    assert not answer.should_publish
    assert await bench.claim(fingerprint="f2") == Conflict()
    assert isinstance(await bench.claim(), Run)


async def test_an_empty_fingerprint_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        await bench.ledger.register(bench.registration(fingerprint=""), channel=None)
    with pytest.raises(ValueError, match="fingerprint"):
        await bench.claim(fingerprint="")


async def test_a_claim_alone_creates_a_foreign_request_with_everything_it_needs(bench: Bench) -> None:
    run = await bench.run(deadline_ms=now_ms() + 60_000)
    assert (run.seed, run.attempt, run.lost_claims, run.chunks) == (2**62 + 1, 1, 0, [])
    record = await bench.ledger.describe(bench.request_id)
    assert record is not None
    assert record.state is RequestState.RUNNING
    assert (record.pool, record.lane, record.tenant) == ("default", Lane.BULK, "acme")
    assert record.coordinates == Coordinates(topic="requests", partition=3, offset=2**40, timestamp_ms=5)
    assert (record.holder, record.fingerprint, record.seed) == (ALICE, "f1", 2**62 + 1)
    assert abs(record.registered_at_ms - now_ms()) < 60_000
    assert record.deadline_ms is not None
    assert record.deadline_ms > now_ms()


async def test_the_seed_and_deadline_that_were_registered_win_over_those_of_a_claim(bench: Bench) -> None:
    await bench.ledger.register(bench.registration(seed=1), channel=None)
    run = await bench.run(seed=2, deadline_ms=1)
    assert run.seed == 1


async def test_a_living_holder_keeps_its_request(bench: Bench) -> None:
    await bench.run(ALICE)
    assert await bench.claim(BOB) == Held(by=ALICE)


async def test_a_holder_that_runs_a_request_is_told_that_it_holds_it(bench: Bench) -> None:
    run = await bench.run(ALICE)
    assert await bench.claim(ALICE, running=True) == Held(by=ALICE)
    assert (await bench.append(run.token, chunk(0, 1))).status is AppendStatus.OK


async def test_a_claim_takes_over_from_a_holder_without_a_lease_and_goes_on_after_its_log(
    bench: Bench,
) -> None:
    lost = await bench.run(ALICE)
    written = (chunk(0, 7, 8), chunk(0, 9, choice=1))
    await bench.append(lost.token, *written)
    await bench.ledger.drop_lease(ALICE)
    run = await bench.run(BOB)
    assert run.chunks == list(written)
    assert (run.attempt, run.lost_claims) == (2, 1)
    assert (await bench.append(lost.token, chunk(2, 10))).status is AppendStatus.FENCED
    assert (await bench.append(run.token, chunk(2, 11))).status is AppendStatus.OK


async def test_a_claim_sets_the_claimer_s_lease(bench: Bench) -> None:
    await bench.ledger.drop_lease(ALICE)
    await bench.run(ALICE)
    assert await bench.ledger.lost_incarnations() == []


async def test_an_incarnation_claims_again_what_its_dead_engine_ran_and_that_counts_towards_poison(
    bench: Bench,
) -> None:
    tokens = {(await bench.run(ALICE, max_attempts=2)).token, (await bench.run(ALICE, max_attempts=2)).token}
    assert len(tokens) == 2
    ended = await bench.claim(ALICE, max_attempts=2)
    assert isinstance(ended, Ended)
    assert ended.verdict is Verdict.POISONED


async def test_lost_leases_count_towards_poison(bench: Bench) -> None:
    for holder in (ALICE, BOB, ALICE):
        await bench.run(holder)
        await bench.ledger.drop_lease(holder)
    ended = await bench.claim(BOB)
    assert isinstance(ended, Ended)
    assert (ended.verdict, ended.reason) == (Verdict.POISONED, "lost 3 times")


async def test_releases_and_held_answers_do_not_count_towards_poison(bench: Bench) -> None:
    for attempt in range(1, 6):
        run = await bench.run(ALICE, max_attempts=1)
        assert run.attempt == attempt
        assert await bench.claim(BOB, max_attempts=1) == Held(by=ALICE)
        assert await bench.ledger.release(bench.request_id, run.token)
    record = await bench.ledger.describe(bench.request_id)
    assert record is not None
    assert (record.lost_claims, record.holder, record.state) == (0, None, RequestState.WAITING)


async def test_only_the_holder_s_token_releases(bench: Bench) -> None:
    run = await bench.run(ALICE)
    await bench.ledger.release(bench.request_id, run.token)
    current = await bench.run(BOB)
    assert not await bench.ledger.release(bench.request_id, run.token)
    assert await bench.claim(ALICE) == Held(by=BOB)
    assert await bench.ledger.release(bench.request_id, current.token)


async def test_a_past_deadline_ends_an_unheld_request_for_good(bench: Bench) -> None:
    deadline_ms = now_ms() - 1
    first = await bench.claim(ALICE, deadline_ms=deadline_ms)
    assert isinstance(first, Ended)
    assert (first.verdict, first.reason) == (Verdict.EXPIRED, "deadline")
    assert first.at_ms > deadline_ms
    await bench.ledger.cancel(bench.request_id, reason="too late", tenant=None)
    await bench.ledger.drop_lease(ALICE)
    second = await bench.claim(BOB)
    assert isinstance(second, Ended)
    assert (second.verdict, second.reason, second.at_ms) == (first.verdict, first.reason, first.at_ms)
    assert second.token != first.token


async def test_a_deadline_does_not_take_a_request_from_its_living_holder(bench: Bench) -> None:
    deadline_ms = now_ms() + 100
    run = await bench.run(ALICE, deadline_ms=deadline_ms)
    async with asyncio.timeout(10):
        while not (await bench.append(run.token, chunk(0, 1))).deadline_passed:
            await asyncio.sleep(0.01)
    assert now_ms() >= deadline_ms
    assert await bench.claim(BOB) == Held(by=ALICE)
    await bench.ledger.drop_lease(ALICE)
    ended = await bench.claim(BOB)
    assert isinstance(ended, Ended)
    assert ended.verdict is Verdict.EXPIRED
    assert ended.chunks == [chunk(0, 1)]


async def test_the_holder_of_a_verdict_keeps_it_while_it_lives(bench: Bench) -> None:
    await bench.claim(ALICE, deadline_ms=1)
    assert await bench.claim(BOB) == Held(by=ALICE)


async def test_a_sealed_request_is_given_to_every_claimer_as_it_was_sealed(bench: Bench) -> None:
    run = await bench.run(ALICE)
    outcome = bench.outcome(value=b"\x00\xff bytes")
    assert await bench.ledger.seal(bench.request_id, run.token, outcome) == Sealed(outcome=outcome)
    assert await bench.claim(BOB, deadline_ms=1) == Sealed(outcome=outcome)
    assert await bench.ledger.finish(bench.request_id)
    assert await bench.claim(BOB) == Finished()


async def test_the_first_seal_wins_and_a_fenced_seal_changes_nothing(bench: Bench) -> None:
    zombie = await bench.run(ALICE)
    await bench.ledger.drop_lease(ALICE)
    current = await bench.run(BOB)
    late = bench.outcome(value=b"late")
    assert await bench.ledger.seal(bench.request_id, zombie.token, late) == Fenced()
    first = bench.outcome(value=b"first")
    assert await bench.ledger.seal(bench.request_id, current.token, first) == Sealed(outcome=first)
    again = bench.outcome(value=b"second")
    assert await bench.ledger.seal(bench.request_id, current.token, again) == Sealed(outcome=first)
    assert await bench.ledger.seal(bench.request_id, zombie.token, late) == Sealed(outcome=first)


async def test_an_unknown_request_cannot_be_sealed(bench: Bench) -> None:
    run = await bench.run()
    bench.request_id = type(bench.request_id)("f" * 32)
    assert await bench.ledger.seal(bench.request_id, run.token, bench.outcome()) == Fenced()


async def test_a_finished_request_is_remembered_and_nothing_can_be_written_to_it(bench: Bench) -> None:
    run = await bench.run()
    await bench.append(run.token, chunk(0, 1, finish=FinishReason.STOP))
    await bench.ledger.seal(bench.request_id, run.token, bench.outcome(Outcome.COMPLETED))
    assert await bench.ledger.finish(bench.request_id)
    assert await bench.ledger.finish(bench.request_id)
    assert (await bench.append(run.token, chunk(1, 2))).status is AppendStatus.FENCED
    again = await bench.ledger.register(bench.registration(), channel="late")
    assert (again.status, again.state) == (RegisterStatus.EXISTING, RequestState.FINISHED)
    record = await bench.ledger.describe(bench.request_id)
    assert record is not None
    assert (record.state, record.holder) == (RequestState.FINISHED, None)
    assert record.finished_at_ms is not None
    assert record.sealed == bench.outcome()


async def test_finish_before_any_seal_is_refused(bench: Bench) -> None:
    await bench.run()
    assert not await bench.ledger.finish(bench.request_id)
    assert await bench.claim(BOB) == Held(by=ALICE)


async def test_finishing_what_redis_has_forgotten_leaves_a_marker_and_asks_for_the_outcome(bench: Bench) -> None:
    assert not await bench.ledger.finish(bench.request_id)
    assert await bench.claim() == Finished()
    answer = await bench.ledger.register(bench.registration(), channel=None)
    assert (answer.status, answer.state) == (RegisterStatus.EXISTING, RequestState.FINISHED)
    snapshot = await bench.ledger.attach(bench.request_id, channel="reader")
    assert snapshot is not None
    assert (snapshot.finished, snapshot.sealed) == (True, None)


async def test_an_unknown_request_has_no_record(bench: Bench) -> None:
    assert await bench.ledger.describe(bench.request_id) is None
