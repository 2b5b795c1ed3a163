"""A worker that was stopped, lost its requests and gets one of them back as a copy, before it knows that it lost it."""

from shared.contracts.errors import LedgerUnavailable
from shared.messaging.records import SourceRecord
from shared.openai.envelope import copy_headers, read_envelope
from tests.unit.services.worker.path_harness import (
    NAMES,
    JournalDelivery,
    PathHarness,
    num_logged,
    only_request,
    running_path,
    undisturbed,
)

RESUME = NAMES.resume("default")


async def take_over(harness: PathHarness) -> None:
    """What a supervisor does when the lease has ended."""
    request_id = only_request(harness)
    harness.store.leases.clear()
    token = harness.store.entries[request_id].token
    assert token is not None
    assert await harness.ledger.orphan(request_id, token)


def deliver_copy(harness: PathHarness, record: SourceRecord) -> JournalDelivery:
    envelope = read_envelope(record, names=NAMES, pool="default", cluster="test")
    return harness.post(record.value, headers=copy_headers(envelope, record.headers, attempt=2), topic=RESUME)


async def test_the_old_run_is_given_up_before_the_new_one_is_submitted() -> None:
    expected = await undisturbed(max_tokens=60)
    async with running_path() as harness:
        original = harness.ask(max_tokens=60)
        await harness.until(lambda: num_logged(harness) > 5)
        for _ in range(10):
            harness.engine.step()  # the worker is stopped: what its engine says lies in the socket
        await take_over(harness)
        copy = deliver_copy(harness, original.record)
        await harness.until(lambda: len(harness.engine.submitted) == 2, is_stepping=False, seconds=0.001)
        assert harness.engine.cancelled == [(only_request(harness), None)]
        assert harness.path.emitter.num_running == 1
        await harness.until(lambda: original.is_done and copy.is_done)
        assert harness.outcomes() == ["completed"]
        assert harness.bodies()[0]["choices"] == expected["choices"]
        assert harness.path.emitter.num_open_tokens == 0


async def test_a_run_whose_seal_was_under_way_when_it_was_taken_over_leaves_no_record_behind() -> None:
    async with running_path() as harness:
        # Both seals fail at first, so that the old run's comes again before the new run's.
        harness.ledger.seal_failures += [LedgerUnavailable("away for a moment")] * 2
        original = harness.ask(max_tokens=4)
        await harness.until(lambda: len(harness.ledger.seal_failures) == 1)
        await take_over(harness)
        copy = deliver_copy(harness, original.record)
        await harness.until(lambda: original.is_done and copy.is_done)
        assert harness.outcomes() == ["completed"]
        assert harness.path.emitter.num_running == 0
