"""Records of one key that want their order run one after another; nobody else waits for them."""

from services.worker.key_order import KeyOrder
from services.worker.work import RecordDelivery
from shared.messaging.records import SourceRecord
from tests.fakes.ledger_store import Store
from tests.unit.services.worker.path_harness import (
    NAMES,
    POSTED_MS,
    JournalDelivery,
    num_logged,
    running_path,
    undisturbed,
)


def headers(name: str) -> tuple[tuple[str, bytes], ...]:
    return (("ce_id", name.encode()), ("penstock-ordered", b"true"))


async def test_the_second_of_a_key_is_submitted_when_the_first_is_done_and_other_keys_run_at_once() -> None:
    async with running_path() as harness:
        first = harness.ask(headers=headers("a"), key=b"k", max_tokens=80)
        second = harness.ask(headers=headers("b"), key=b"k", max_tokens=20)
        other = harness.ask(headers=headers("c"), key=b"l", max_tokens=20)
        unordered = harness.ask(headers=(("ce_id", b"d"),), key=b"k", max_tokens=20)
        await harness.until(lambda: other.is_done and unordered.is_done)
        assert len(harness.engine.submitted) == 3
        assert second.is_waiting
        await harness.until(lambda: second.is_done)
        assert first.is_done
        assert not second.is_waiting
        assert len(harness.engine.submitted) == 4


async def test_a_crash_of_the_first_holder_keeps_the_order_at_the_next_one() -> None:
    expected = await undisturbed(max_tokens=60)
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as dead, running_path(store=store, name="worker-1") as heir:
        dead.ask(headers=headers("a"), key=b"k", max_tokens=60)
        dead.ask(headers=headers("b"), key=b"k")
        await dead.until(lambda: num_logged(dead) > 5)
        store.leases.clear()
        # Both lie above the committed offset: the partition's next holder gets them again, in their order.
        first = heir.ask(headers=headers("a"), key=b"k", max_tokens=60)
        second = heir.ask(headers=headers("b"), key=b"k")
        await heir.until(lambda: first.is_done or len(heir.engine.submitted) > 1)
        assert first.is_done
        assert heir.engine.submitted[0].choices[0].output_token_ids, "from the last token"
        await heir.until(lambda: second.is_done)
        assert heir.bodies()[0]["choices"][0]["text"] == expected["choices"][0]["text"]


async def test_while_another_worker_runs_the_first_the_next_holder_lets_the_second_wait() -> None:
    store = Store(now_ms=lambda: POSTED_MS)
    async with running_path(store=store) as old, running_path(store=store, name="worker-1") as new:
        running = old.ask(headers=headers("a"), key=b"k", max_tokens=60)
        await old.until(lambda: num_logged(old) > 5)
        first = new.ask(headers=headers("a"), key=b"k", max_tokens=60)
        second = new.ask(headers=headers("b"), key=b"k")
        for _ in range(10):
            await new.turn(seconds=0.5)
        assert not new.engine.submitted
        await old.until(lambda: running.is_done)
        await new.until(lambda: second.is_done)
        assert first.is_done
        assert not [
            body for body in new.bodies() if body["choices"][0]["text"] == old.bodies()[0]["choices"][0]["text"]
        ]


async def test_an_error_of_ours_is_tried_again_here_and_the_next_of_its_key_still_waits() -> None:
    async with running_path() as harness:
        harness.engine.rejects_with = "engine_failed"
        first = harness.ask(headers=headers("a"), key=b"k")
        second = harness.ask(headers=headers("b"), key=b"k")
        await harness.until(lambda: bool(harness.engine.cancelled))
        harness.engine.rejects_with = None
        await harness.until(lambda: first.is_done, seconds=0.1)
        await harness.until(lambda: second.is_done)
        assert harness.outcomes() == ["completed", "completed"]
        assert not harness.retried


async def test_a_record_that_nobody_can_read_does_not_hold_its_key_up() -> None:
    async with running_path() as harness:
        harness.post(b"\xff", headers=headers("a"), key=b"k")
        second = harness.ask(headers=headers("b"), key=b"k")
        await harness.until(lambda: second.is_done)
        assert len(harness.dead_letters) == 1


class Line:
    """Deliveries as they were let through."""

    def __init__(self) -> None:
        self.through: list[RecordDelivery] = []
        self.order = KeyOrder(self.through.append, holds_copies=lambda topic: topic == NAMES.resume("default"))

    def arrives(self, offset: int, *, partition: int = 0, topic: str = "t", key: bytes = b"k") -> JournalDelivery:
        record = SourceRecord(
            topic=topic,
            partition=partition,
            offset=offset,
            timestamp_ms=1,
            key=key,
            value=b"",
            headers=(("penstock-ordered", b"true"),),
        )
        delivery = JournalDelivery(record, [])
        self.order.arrived(delivery)
        return delivery

    @property
    def offsets(self) -> list[int]:
        return [delivery.record.offset for delivery in self.through]


def test_a_line_goes_on_one_by_one_whatever_is_done_twice() -> None:
    line = Line()
    for offset in range(3):
        line.arrives(offset)
    assert line.offsets == [0]
    line.through[0].done()
    line.through[0].done()
    assert line.offsets == [0, 1]
    line.through[1].done()
    line.through[2].done()
    line.arrives(3)
    assert line.offsets == [0, 1, 2, 3]


def test_the_same_key_in_another_partition_or_topic_is_another_line_and_copies_are_in_none() -> None:
    line = Line()
    line.arrives(0)
    line.arrives(1, partition=1)
    line.arrives(2, topic="u")
    line.arrives(3, topic=NAMES.resume("default"))
    assert line.offsets == [0, 1, 2, 3]
