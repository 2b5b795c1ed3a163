"""A request that failed by an error of ours: tried again by way of the delay topics, and not for ever."""

import random
from dataclasses import dataclass, field

import pytest

from services.worker.handing_on import HandingOn
from services.worker.retries import RetryPolicy, is_worth_another_try
from services.worker.work import Work
from shared.contracts.errors import BrokerUnavailable, PlatformError, TransientError, error_classes
from shared.contracts.identifiers import ClaimToken, RequestId
from shared.contracts.topics import RETRY_DELAYS_SECONDS
from shared.openai.envelope import copy_headers, read_envelope
from tests.unit.services.worker.path_harness import (
    NAMES,
    POSTED_MS,
    JournalDelivery,
    JournalProducer,
    PathHarness,
    num_logged,
    only_request,
    running_path,
    undisturbed,
)

NOW = 1_764_000_000_000


def plan_after(failures: int, *, deadline_ms: int | None = None, max_attempts: int = 10, seed: int = 1) -> object:
    policy = RetryPolicy(max_attempts=max_attempts, generator=random.Random(seed))
    return policy.plan(failures=failures, deadline_ms=deadline_ms, now_ms=NOW)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 4), (3, 16), (4, 16), (9, 16)])
def test_each_failure_waits_longer_than_the_one_before_at_least_half_of_its_topics_delay(
    failures: int, seconds: int
) -> None:
    policy = RetryPolicy(max_attempts=10, generator=random.Random(failures))
    waits = set()
    for _ in range(200):
        retry = policy.plan(failures=failures, deadline_ms=None, now_ms=NOW)
        assert retry is not None
        assert (retry.delay_seconds, retry.failures) == (seconds, failures)
        waits.add(retry.not_before_ms - NOW)
    assert seconds * 500 <= min(waits) < max(waits) <= seconds * 1_000
    assert len(waits) > 100, "spread, so that what failed together does not come back together"


def test_the_last_attempt_has_no_retry() -> None:
    assert plan_after(2, max_attempts=3) is not None
    assert plan_after(3, max_attempts=3) is None


def test_a_retry_beyond_the_deadline_is_none() -> None:
    assert plan_after(1, deadline_ms=NOW + 1_001) is not None
    assert plan_after(1, deadline_ms=NOW + 500) is None


def test_only_errors_of_ours_that_another_try_may_help_are_worth_one() -> None:
    worth = {code for code, kind in error_classes().items() if issubclass(kind, TransientError)}
    assert {"engine_failed", "worker_lost", "broker_unavailable"} <= worth
    assert not worth & {"invalid_request", "internal_error", "poison_message", "request_cancelled", "queue_full"}
    for code, kind in error_classes().items():
        error = kind.__new__(kind)
        assert is_worth_another_try(error) == (code in worth)


async def retried(harness: PathHarness, number: int) -> JournalDelivery:
    """Fails once more; what lies on the delay topic then, as its next reader gets it."""
    await harness.until(lambda: len(harness.retried) == number)
    work, retry = harness.retried[-1]
    record = work.delivery.record
    headers = copy_headers(work.envelope, record.headers, retries=retry.failures, not_before_ms=retry.not_before_ms)
    return harness.post(record.value, headers=headers, topic=NAMES.retry("default", retry.delay_seconds))


async def test_an_error_of_ours_goes_to_the_delay_topics_and_then_is_a_failed_result_with_a_dead_letter() -> None:
    async with running_path(max_attempts=3) as harness:
        harness.engine.rejects_with = "engine_failed"
        original = harness.ask()
        second = await retried(harness, 1)
        assert original.is_done, "its copy is acknowledged"
        assert harness.store.entries[only_request(harness)].token is None, "nobody holds it meanwhile"
        third = await retried(harness, 2)
        await harness.until(lambda: third.is_done)
        assert second.is_done
        assert [retry.delay_seconds for _, retry in harness.retried] == list(RETRY_DELAYS_SECONDS[:2])
        assert harness.outcomes() == ["failed"]
        assert len(harness.engine.submitted) == 3
        assert len(harness.dead_letters) == 1
        assert harness.store.entries[only_request(harness)].lost == 0, "a failure is no lost claim"


async def test_what_failed_in_the_middle_goes_on_from_its_last_token() -> None:
    expected = await undisturbed(max_tokens=40)
    async with running_path() as harness:
        harness.ask(max_tokens=40)
        await harness.until(lambda: num_logged(harness) > 10)
        harness.engine.rejects_with = "engine_failed"
        await harness.until(lambda: len(harness.retried) == 1)
        harness.engine.rejects_with = None
        copy = await retried(harness, 1)
        await harness.until(lambda: copy.is_done)
        assert harness.engine.submitted[1].choices[0].output_token_ids
        assert harness.bodies()[0]["choices"] == expected["choices"]


async def test_what_is_the_callers_fault_is_never_tried_again() -> None:
    async with running_path() as harness:
        harness.engine.rejects_with = "invalid_request"
        delivery = harness.ask()
        await harness.until(lambda: delivery.is_done)
        assert harness.outcomes() == ["failed"]
        assert not harness.retried
        assert not harness.dead_letters


async def test_what_has_no_time_left_before_its_deadline_fails_at_once() -> None:
    headers = [("ce_id", b"a"), ("penstock-deadline-ms", str(POSTED_MS + 450).encode())]
    async with running_path() as harness:
        harness.engine.rejects_with = "engine_failed"
        delivery = harness.ask(headers=headers)
        await harness.until(lambda: delivery.is_done)
        assert not harness.retried
        assert harness.outcomes() == ["failed"]


async def test_with_kafka_away_it_waits_here_and_is_tried_again_when_it_is_due() -> None:
    async with running_path() as harness:
        harness.has_delay_topics = False
        harness.engine.rejects_with = "engine_failed"
        delivery = harness.ask()
        await harness.until(lambda: bool(harness.engine.cancelled))
        harness.engine.rejects_with = None
        for _ in range(4):
            await harness.turn(seconds=0.1)
        assert len(harness.engine.submitted) == 1
        await harness.until(lambda: delivery.is_done, seconds=0.1)
        assert harness.outcomes() == ["completed"]


# --- the copies themselves


class Claims:
    def __init__(self, journal: list[str]) -> None:
        self._journal = journal

    async def release(self, request_id: RequestId, token: ClaimToken) -> bool:
        self._journal.append("release")
        return True


@dataclass
class Copies(JournalProducer):
    partitions: list[int | None] = field(default_factory=list)

    async def send(self, topic: str, *, partition: int | None = None, **record: object) -> None:  # type: ignore[override]
        await super().send(topic, **record)  # type: ignore[arg-type]
        self.partitions.append(partition)


class Desk:
    """One worker's hand-overs, of which partition 0 of the resume topic is its own."""

    def __init__(self, *, partitions: int = 3, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self.journal: list[str] = []
        self.copies = Copies("copy", self.journal)
        self.handing_on = HandingOn(
            Claims(self.journal),
            self.copies,
            names=NAMES,
            pool="default",
            request_partitions=partitions,
            assignment=lambda: [(NAMES.resume("default"), 0), ("inference.requests.default.bulk", 1)],
        )
        harness_record = PathHarness.record(headers=headers, key=b"k")
        self.delivery = JournalDelivery(harness_record, self.journal)
        envelope = read_envelope(harness_record, names=NAMES, pool="default", cluster="test")
        self.work = Work(delivery=self.delivery, envelope=envelope, model="m", received_ns=0, token=ClaimToken("t"))


ORDERED = (("penstock-ordered", b"true"),)


async def test_a_hand_over_releases_copies_and_only_then_is_done() -> None:
    desk = Desk()
    await desk.handing_on.hand_over(desk.work)
    assert desk.journal == ["release", "copy", "done"]
    assert desk.copies.partitions[0] in {1, 2}


@pytest.mark.parametrize("failure", [BrokerUnavailable("away")])
async def test_a_copy_that_is_not_acknowledged_leaves_the_record_undone(failure: PlatformError) -> None:
    desk = Desk()
    desk.copies.failures.append(failure)
    await desk.handing_on.hand_over(desk.work)
    assert not desk.delivery.is_done


async def test_a_record_that_keeps_its_keys_order_is_done_by_no_copy() -> None:
    desk = Desk(headers=ORDERED)
    await desk.handing_on.hand_over(desk.work)
    assert not await desk.handing_on.pass_on(desk.work)
    retry = RetryPolicy(max_attempts=3).plan(failures=1, deadline_ms=None, now_ms=NOW)
    assert retry is not None
    assert not await desk.handing_on.retry_later(desk.work, retry)
    assert desk.journal == ["release", "copy", "copy"]
    assert not desk.delivery.is_done


async def test_it_is_passed_on_once() -> None:
    desk = Desk(headers=ORDERED)
    for _ in range(3):
        assert not await desk.handing_on.pass_on(desk.work)
    assert desk.journal == ["copy"]


async def test_a_retry_lies_on_its_delays_topic_and_says_when_it_is_due() -> None:
    desk = Desk()
    retry = RetryPolicy(max_attempts=5).plan(failures=2, deadline_ms=None, now_ms=NOW)
    assert retry is not None
    assert await desk.handing_on.retry_later(desk.work, retry)
    ((topic, _, headers),) = desk.copies.sent
    assert topic == "inference.requests.default.retry.4s"
    assert headers["penstock-retries"] == b"2"
    assert headers["penstock-not-before-ms"] == str(retry.not_before_ms).encode()
    assert desk.delivery.is_done
