"""A record's way through the worker when Redis loses its data under it: progress stays, nothing is said twice."""

import pytest

from shared.contracts.errors import BrokerUnavailable
from shared.contracts.identifiers import Incarnation
from shared.ledger.records import ClaimRequest, Finished, Held, Recovering, RequestState, Sealed
from tests.fakes.ledger_store import FIRST_EPOCH
from tests.unit.services.worker.path_harness import PathHarness, num_logged, only_request, running_path, undisturbed

BODY = {"max_tokens": 60, "n": 2, "return_token_ids": True, "seed": 5}


def claim_of_another(harness: PathHarness, claimed: ClaimRequest) -> ClaimRequest:
    return ClaimRequest(
        registration=claimed.registration,
        incarnation=Incarnation("other.0001"),
        coordinates=claimed.coordinates,
        max_attempts=3,
    )


async def claimed_by(harness: PathHarness) -> ClaimRequest:
    entry = harness.store.entries[only_request(harness)]
    assert entry.claimed is not None
    return entry.claimed


@pytest.mark.parametrize("num_tokens", [1, 20, 90])
@pytest.mark.parametrize("is_told", [True, False], ids=["told by the lease", "told by a fence"])
async def test_a_running_request_goes_on_and_its_log_is_whole_again(num_tokens: int, is_told: bool) -> None:
    async with running_path() as harness:
        delivery = harness.ask(**BODY)
        await harness.until(lambda: num_logged(harness) >= num_tokens)
        harness.store.lose_everything()
        if is_told:
            await harness.path.put_back()
        await harness.until(lambda: delivery.is_done)
        assert len(harness.engine.submitted) == 1, "nothing is computed twice"
        logged = harness.store.entries[only_request(harness)].chunks
        for choice in harness.bodies()[0]["choices"]:
            chunks = [chunk for chunk in logged if chunk.choice == choice["index"]]
            assert [token for chunk in chunks for token in chunk.token_ids] == choice["token_ids"]
            assert "".join(chunk.text for chunk in chunks) == choice["text"]
        assert harness.bodies() == [await undisturbed(**BODY)]


async def test_claims_wait_while_redis_is_refilled() -> None:
    async with running_path() as harness:
        harness.store.epoch = None
        delivery = harness.ask()
        for _ in range(200):
            await harness.turn(seconds=0.05)
        assert not harness.engine.submitted
        harness.store.epoch = FIRST_EPOCH
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed"]


async def test_a_request_that_waits_in_the_engine_is_put_back_without_a_token() -> None:
    async with running_path() as harness:
        delivery = harness.ask(**BODY)
        await harness.until(lambda: bool(harness.engine.submitted), is_stepping=False)
        claimed = await claimed_by(harness)
        harness.store.lose_everything()
        await harness.path.put_back()
        await harness.until(lambda: bool(harness.store.entries), is_stepping=False)
        harness.store.epoch = FIRST_EPOCH
        held = await harness.ledger.claim(claim_of_another(harness, claimed))
        assert held == Held(by=harness.incarnation)
        await harness.until(lambda: delivery.is_done)


async def test_who_was_overtaken_after_the_loss_falls_silent() -> None:
    async with running_path() as harness:
        harness.ask(**BODY)
        await harness.until(lambda: num_logged(harness) > 10)
        claimed = await claimed_by(harness)
        harness.store.lose_everything()
        harness.store.epoch = FIRST_EPOCH
        await harness.ledger.claim(claim_of_another(harness, claimed))
        await harness.until(lambda: not harness.path.emitter.num_running)
        assert harness.engine.cancelled[-1] == (only_request(harness), None)
        assert harness.results.sent == []


async def test_a_result_that_kafka_does_not_take_yet_stays_sealed_for_whoever_claims_next() -> None:
    async with running_path() as harness:
        harness.results.failures.extend([BrokerUnavailable("away")] * 4)
        delivery = harness.ask(**BODY)
        await harness.until(lambda: "seal" in harness.journal)
        sealed = harness.store.entries[only_request(harness)].sealed
        claimed = await claimed_by(harness)
        harness.store.lose_everything()
        await harness.path.put_back()
        harness.store.epoch = FIRST_EPOCH
        assert sealed is not None
        assert await harness.ledger.claim(claim_of_another(harness, claimed)) == Sealed(outcome=sealed)
        await harness.until(lambda: delivery.is_done)
        assert [value for _, value, _ in harness.results.sent] == [sealed.value]


@pytest.mark.parametrize("is_known_again", [True, False])
async def test_a_result_that_was_published_into_the_loss_is_put_back(is_known_again: bool) -> None:
    async with running_path() as harness:
        harness.results.failures.append(BrokerUnavailable("away"))
        delivery = harness.ask(**BODY)
        await harness.until(lambda: "seal" in harness.journal)
        claimed = await claimed_by(harness)
        harness.store.lose_everything()
        if is_known_again:
            await harness.ledger.register(claimed.registration, channel="gateway")
        await harness.until(lambda: delivery.is_done)
        record = await harness.ledger.describe(only_request(harness))
        assert record is not None
        assert record.state is RequestState.FINISHED
        assert record.sealed is not None
        assert record.sealed.value == harness.results.sent[0][1]
        assert await harness.ledger.claim(claim_of_another(harness, claimed)) == Finished()


async def test_a_seal_that_finds_an_empty_redis_writes_the_log_first() -> None:
    """Readers of the stream need its tokens; the result has none of their log-probabilities."""
    async with running_path() as harness:
        delivery = harness.ask(**BODY)
        original, lost = harness.ledger.seal, []

        async def seal_after_a_loss(*arguments: object) -> object:
            if not lost:
                lost.append(True)
                harness.store.lose_everything()
            return await original(*arguments)  # type: ignore[arg-type]

        harness.ledger.seal = seal_after_a_loss  # type: ignore[method-assign,assignment]
        await harness.until(lambda: delivery.is_done)
        assert num_logged(harness) == 120
        assert harness.bodies() == [await undisturbed(**BODY)]


async def test_a_verdict_that_redis_forgot_is_asked_for_again() -> None:
    async with running_path() as harness:
        request = harness.ask(headers=[("ce_id", b"a"), ("penstock-deadline-ms", b"1600000000000")])
        await harness.until(lambda: request.is_done)
        assert harness.outcomes() == ["expired"]
        claimed = harness.store.entries[only_request(harness)].claimed
        harness.store.lose_everything()
        assert claimed is not None
        assert await harness.ledger.claim(claimed) == Recovering()
