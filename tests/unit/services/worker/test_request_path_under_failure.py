"""What happens to engine, ledger and deadlines on a request's way changes its result in no way it must not."""

from shared.contracts.errors import WorkerLost
from tests.fakes.ledger_store import Store
from tests.unit.services.worker.path_harness import POSTED_MS, num_logged, only_request, running_path, undisturbed


async def test_the_ledger_away_means_waiting_not_losing() -> None:
    async with running_path() as harness:
        harness.ledger.available = False
        delivery = harness.ask()
        for _ in range(5):
            await harness.turn(seconds=0.5)
        assert not harness.journal
        harness.ledger.available = True
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed"]


async def test_the_ledger_away_while_running_loses_no_token() -> None:
    expected = await undisturbed(max_tokens=40)
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=40)
        await harness.until(lambda: num_logged(harness) > 5)
        harness.ledger.available = False
        for _ in range(100):
            await harness.turn()
        harness.ledger.available = True
        await harness.until(lambda: delivery.is_done)
        assert harness.bodies()[0]["choices"] == expected["choices"]


async def test_a_log_that_lost_an_append_is_filled_again() -> None:
    expected = await undisturbed(max_tokens=40)
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=40)
        await harness.until(lambda: num_logged(harness) > 10)
        entry = harness.store.entries[only_request(harness)]
        del entry.chunks[3:]
        entry.next_positions[0] = sum(len(chunk.token_ids) for chunk in entry.chunks)
        await harness.until(lambda: delivery.is_done)
        assert num_logged(harness) == 40
        assert "".join(chunk.text for chunk in entry.chunks) == expected["choices"][0]["text"]


async def test_a_fenced_request_falls_silent_and_is_claimed_again() -> None:
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as old, running_path(store=store, name="worker-1") as new:
        old_delivery = old.ask(max_tokens=60)
        await old.until(lambda: num_logged(old) > 5)
        store.leases.clear()
        new_delivery = new.ask(max_tokens=60)
        await new.until(lambda: bool(new.engine.submitted))
        assert new.engine.submitted[0].choices[0].output_token_ids
        # The old one runs on, and is fenced at its next append.
        await old.until(lambda: bool(old.engine.cancelled))
        assert old.path.emitter.num_running == 0
        assert not {"seal", "publish", "done"} & set(old.journal)
        await new.until(lambda: new_delivery.is_done)
        await old.until(lambda: old_delivery.is_done)
        assert not old.results.sent
        assert new.bodies()[0]["choices"] == (await undisturbed(max_tokens=60))["choices"]


async def test_an_engine_that_dies_in_the_middle_changes_nothing_in_the_result() -> None:
    expected = await undisturbed(max_tokens=50, n=3)
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=50, n=3)
        await harness.until(lambda: num_logged(harness) > 20)
        harness.kill_engine()
        assert harness.path.emitter.num_running == 0
        assert harness.valve.is_paused
        for _ in range(10):
            await harness.turn(seconds=0.5)
        assert len(harness.engine.submitted) == 1
        harness.restart_engine()
        assert not harness.valve.is_paused
        await harness.until(lambda: delivery.is_done)
        assert harness.bodies()[0]["choices"] == expected["choices"]
        assert harness.store.entries[only_request(harness)].lost == 1
        assert harness.engine.submitted[1].choices[0].output_token_ids


async def test_a_request_that_kills_every_engine_is_given_up_with_a_failed_result_and_a_dead_letter() -> None:
    async with running_path(max_attempts=3) as harness:
        delivery = harness.ask(max_tokens=1_000)
        for life in range(3):
            await harness.until(lambda life=life: len(harness.engine.submitted) == life + 1)
            await harness.turn()
            harness.kill_engine()
            harness.restart_engine()
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["failed"]
        assert isinstance(harness.dead_letters[0][1], WorkerLost)
        assert len(harness.engine.submitted) == 3


async def test_a_cancelled_request_stops_in_the_engine_and_ends_as_cancelled() -> None:
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=1_000)
        await harness.until(lambda: num_logged(harness) > 3)
        harness.path.emitter.cancel(only_request(harness))
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["cancelled"]
        assert (only_request(harness), None) in harness.engine.cancelled
        assert not harness.engine.null.has_work


async def test_a_cancel_flag_in_the_ledger_is_seen_by_the_next_append() -> None:
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=1_000)
        await harness.until(lambda: num_logged(harness) > 3)
        await harness.ledger.cancel(only_request(harness), reason="enough", tenant=None)
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["cancelled"]


async def test_a_request_cancelled_before_it_was_claimed_never_reaches_the_engine() -> None:
    async with running_path() as harness:
        first = harness.ask(max_tokens=1)
        await harness.until(lambda: first.is_done)
        request_id = only_request(harness)
        harness.store.entries.clear()
        await harness.ledger.cancel(request_id, reason="too late", tenant=None)
        delivery = harness.ask(max_tokens=1)
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed", "cancelled"]
        assert len(harness.engine.submitted) == 1


async def test_a_deadline_that_passes_while_running_ends_with_the_usage_so_far() -> None:
    headers = [("ce_id", b"a"), ("penstock-deadline-ms", str(POSTED_MS + 200).encode())]
    async with running_path() as harness:
        delivery = harness.ask(max_tokens=1_000, headers=headers)
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["expired"]
        assert 0 < num_logged(harness) < 1_000
        assert not harness.engine.null.has_work


async def test_a_deadline_that_passed_before_the_claim_is_the_ledgers_verdict() -> None:
    headers = [("ce_id", b"a"), ("penstock-deadline-ms", str(POSTED_MS - 1).encode())]
    async with running_path() as harness:
        delivery = harness.ask(headers=headers)
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["expired"]
        assert harness.journal == ["seal", "publish", "finish", "done"]
        assert not harness.engine.submitted


async def test_what_the_engine_rejects_for_good_is_a_failed_result() -> None:
    async with running_path() as harness:
        harness.engine.rejects_with = "context_length_exceeded"
        delivery = harness.ask()
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["failed"]
        assert harness.bodies()[0]["error"]["code"] == "context_length_exceeded"


async def test_what_a_full_engine_rejects_is_claimed_again_without_counting_as_lost() -> None:
    async with running_path() as harness:
        harness.engine.rejects_with = "engine_saturated"
        delivery = harness.ask()
        await harness.until(lambda: harness.path.emitter.num_running == 0 and bool(harness.engine.cancelled))
        harness.engine.rejects_with = None
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["completed"]
        assert harness.store.entries[only_request(harness)].lost == 0


async def test_a_stream_that_another_engine_began_is_passed_on_and_not_continued() -> None:
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as old, running_path(store=store, name="worker-1") as new:
        old.ask(max_tokens=60)
        await old.until(lambda: num_logged(old) > 5)
        store.entries[only_request(old)].engine = "other weights"
        store.leases.clear()
        delivery = new.ask(max_tokens=60)
        await new.until(lambda: delivery.is_done)
        assert new.passed_on == [only_request(old)]
        assert not new.engine.submitted
        assert not {"seal", "publish"} & set(new.journal)


async def test_a_stream_whose_engine_never_comes_back_fails_and_says_so() -> None:
    store_time = [POSTED_MS]
    store = Store(now_ms=lambda: store_time[0])
    async with running_path(store=store) as old, running_path(store=store, name="worker-1") as new:
        new.has_others = False
        old.ask(max_tokens=60)
        await old.until(lambda: num_logged(old) > 5)
        store.entries[only_request(old)].engine = "other weights"
        store.leases.clear()
        delivery = new.ask(max_tokens=60)
        for _ in range(4):
            await new.turn(seconds=0.5)
        assert not delivery.is_done
        store_time[0] += new.ledger.settings.foreign_patience_ms
        store.leases.clear()
        await new.until(lambda: delivery.is_done, seconds=0.1)
        assert new.outcomes() == ["failed"]
        assert "other weights or numerics" in new.bodies()[0]["error"]["message"]
        assert not new.dead_letters


async def test_the_capacity_that_is_told_of_is_not_that_of_an_engine_that_died() -> None:
    async with running_path() as harness:
        harness.ask(max_tokens=60)
        await harness.until(lambda: num_logged(harness) > 5)
        observations = harness.path._observations
        assert observations.last_step is not None
        harness.kill_engine()
        assert observations.last_step is None
