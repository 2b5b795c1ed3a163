"""A stream goes on only where the weights and numerics are those that began it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from shared.contracts.events import Outcome
from shared.ledger.ledger import Ledger
from shared.ledger.records import Ended, Foreign, Run, Sealed, Verdict
from shared.settings.redis import RedisSettings
from tests.contract.ledger.ledger_bench import ALICE, BOB, Bench, chunk
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import Store


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.redis), "memory"])
async def impatient(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A ledger that waits for no engine."""
    no_patience = {"foreign_patience_ms": 0}
    async with AsyncExitStack() as stack:
        if request.param == "redis":
            settings: RedisSettings = request.getfixturevalue("redis_settings")
            ledger = await stack.enter_async_context(Ledger(settings.model_copy(update=no_patience)))
            await ledger.open_epoch(is_refilled=False)
        else:
            fake = InMemoryLedger(RedisSettings().model_copy(update=no_patience), store=Store())
            ledger = await stack.enter_async_context(fake)  # type: ignore[arg-type]

        async def open_ledger() -> Ledger:
            return ledger

        yield Bench(open_ledger, ledger)


async def begun_by_alice(bench: Bench) -> None:
    run = await bench.run(ALICE, engine="e1")
    await bench.append(run.token, chunk(0, 7, 8))
    await bench.ledger.drop_lease(ALICE)


async def test_a_stream_is_not_continued_by_an_engine_with_other_weights(bench: Bench) -> None:
    await begun_by_alice(bench)
    assert await bench.claim(BOB, engine="e2") == Foreign(engine="e1")


async def test_who_has_the_same_weights_takes_it_from_whoever_could_not(bench: Bench) -> None:
    await begun_by_alice(bench)
    await bench.claim(BOB, engine="e2")
    run = await bench.run(BOB, engine="e1")
    assert [part.token_ids for part in run.chunks] == [(7, 8)]
    assert run.lost_claims == 1, "refusing it is not losing it"


async def test_what_has_no_token_yet_runs_anywhere_and_belongs_to_the_engine_that_begins_it(bench: Bench) -> None:
    await bench.run(ALICE, engine="e1")
    await bench.ledger.drop_lease(ALICE)
    run = await bench.run(BOB, engine="e2")
    await bench.append(run.token, chunk(0, 7))
    await bench.ledger.drop_lease(BOB)
    assert await bench.claim(ALICE, engine="e1") == Foreign(engine="e2")


async def test_a_living_holder_is_named_before_its_engine(bench: Bench) -> None:
    await bench.run(ALICE, engine="e1")
    assert not isinstance(await bench.claim(BOB, engine="e2"), Foreign)


async def test_a_cancelled_stream_can_be_ended_by_any_engine(bench: Bench) -> None:
    await begun_by_alice(bench)
    await bench.ledger.cancel(bench.request_id, reason="no longer", tenant=None)
    ended = await bench.claim(BOB, engine="e2")
    assert isinstance(ended, Ended)
    assert ended.verdict is Verdict.CANCELLED


async def test_when_no_such_engine_comes_back_the_request_fails_for_good(impatient: Bench) -> None:
    await begun_by_alice(impatient)
    ended = await impatient.claim(BOB, engine="e2")
    assert isinstance(ended, Ended)
    assert ended.verdict is Verdict.INCOMPATIBLE
    assert [part.token_ids for part in ended.chunks] == [(7, 8)]
    sealed = await impatient.ledger.seal(impatient.request_id, ended.token, impatient.outcome(Outcome.FAILED))
    assert isinstance(sealed, Sealed)


async def test_a_verdict_stays_even_when_the_engine_comes_back_too_late(impatient: Bench) -> None:
    await begun_by_alice(impatient)
    await impatient.claim(BOB, engine="e2")
    await impatient.ledger.drop_lease(BOB)
    again = await impatient.claim(ALICE, engine="e1")
    assert not isinstance(again, Run)
    assert isinstance(again, Ended)
    assert again.verdict is Verdict.INCOMPATIBLE
