"""A request may be cancelled wherever it is: one cancelled terminal with the usage so far, and no more work for it."""

from collections.abc import Awaitable, Callable

import pytest

from shared.openai.envelope import copy_headers, read_envelope
from tests.unit.services.worker.path_harness import (
    NAMES,
    POSTED_MS,
    JournalDelivery,
    PathHarness,
    num_logged,
    only_request,
    running_path,
)

ID = (("ce_id", b"a"),)
ORDERED = (("ce_id", b"b"), ("penstock-ordered", b"true"))


async def cancel(harness: PathHarness) -> None:
    await harness.ledger.cancel(only_request(harness), reason="enough", tenant=None)


async def waiting_for_an_engine(harness: PathHarness) -> JournalDelivery:
    harness.kill_engine()
    delivery = harness.ask(max_tokens=1_000)
    await harness.turn()
    # Nobody has claimed it: as long as it lies in Kafka, and after that, the ledger keeps a tombstone.
    request_id = read_envelope(delivery.record, names=NAMES, pool="default", cluster="test").request_id
    await harness.ledger.cancel(request_id, reason="enough", tenant=None)
    harness.restart_engine()
    return delivery


async def waiting_for_its_first_step(harness: PathHarness) -> JournalDelivery:
    delivery = harness.ask(max_tokens=1_000)
    await harness.until(lambda: bool(harness.engine.submitted), is_stepping=False)
    await cancel(harness)
    return delivery


async def decoding(harness: PathHarness) -> JournalDelivery:
    delivery = harness.ask(max_tokens=1_000)
    await harness.until(lambda: num_logged(harness) > 3)
    await cancel(harness)
    return delivery


async def without_its_engine(harness: PathHarness) -> JournalDelivery:
    delivery = harness.ask(max_tokens=1_000)
    await harness.until(lambda: num_logged(harness) > 3)
    harness.kill_engine()
    await cancel(harness)
    harness.restart_engine()
    return delivery


async def between_two_workers(harness: PathHarness) -> JournalDelivery:
    original = harness.ask(max_tokens=1_000)
    await harness.until(lambda: num_logged(harness) > 3)
    (work,) = harness.path.emitter.abandon(only_unfinished=False)
    assert work.token is not None
    harness.store.leases.clear()
    assert await harness.ledger.orphan(work.request_id, work.token)
    await cancel(harness)
    headers = copy_headers(work.envelope, original.record.headers, attempt=2)
    return harness.post(original.record.value, headers=headers, topic=NAMES.resume("default"))


async def on_a_delay_topic(harness: PathHarness) -> JournalDelivery:
    original = harness.ask(max_tokens=1_000)
    await harness.until(lambda: num_logged(harness) > 3)
    harness.engine.rejects_with = "engine_failed"
    await harness.until(lambda: len(harness.retried) == 1)
    harness.engine.rejects_with = None
    await cancel(harness)
    ((work, retry),) = harness.retried
    headers = copy_headers(work.envelope, original.record.headers, retries=1, not_before_ms=POSTED_MS)
    return harness.post(original.record.value, headers=headers, topic=NAMES.retry("default", retry.delay_seconds))


STATES: dict[str, tuple[Callable[[PathHarness], Awaitable[JournalDelivery]], int]] = {
    "not claimed, no engine": (waiting_for_an_engine, 0),
    "not begun": (waiting_for_its_first_step, 1),
    "decoding": (decoding, 1),
    "its engine is gone": (without_its_engine, 1),
    "between two workers": (between_two_workers, 1),
    "on a delay topic": (on_a_delay_topic, 1),
}
"""How to get there and cancel, and how often the engine was given it then."""


@pytest.mark.parametrize("state", STATES)
async def test_it_ends_as_cancelled_with_the_usage_so_far_and_the_engine_is_free(state: str) -> None:
    reach, num_submissions = STATES[state]
    async with running_path() as harness:
        delivery = await reach(harness)
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["cancelled"]
        assert harness.bodies()[0]["usage"]["completion_tokens"] == num_logged(harness)
        assert len(harness.engine.submitted) == num_submissions
        await harness.until(lambda: not harness.engine.null.has_work)
        assert harness.path.emitter.num_open_tokens == 0


async def test_one_that_waits_for_its_turn_is_cancelled_when_it_comes() -> None:
    async with running_path() as harness:
        first = harness.ask(headers=(("ce_id", b"a"), ("penstock-ordered", b"true")), key=b"k", max_tokens=30)
        second = harness.ask(headers=ORDERED, key=b"k", max_tokens=1_000)
        await harness.until(lambda: num_logged(harness) > 3)
        request_id = read_envelope(second.record, names=NAMES, pool="default", cluster="test").request_id
        await harness.ledger.cancel(request_id, reason="enough", tenant=None)
        await harness.until(lambda: first.is_done and second.is_done)
        assert harness.outcomes() == ["completed", "cancelled"]
        assert len(harness.engine.submitted) == 1
