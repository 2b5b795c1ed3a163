"""Reassignment against scripted ports: what is done in which order, and what happens when a part fails."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from services.supervisor.reassignment import Reassignment
from shared.contracts import headers as names_of
from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable, OutcomeTooLarge
from shared.contracts.identifiers import ClaimToken, Incarnation, RequestId
from shared.contracts.topics import TopicNames
from shared.ledger.records import OwnedRequest
from shared.messaging.records import SourceRecord
from shared.openai.envelope import read_envelope
from tests.unit.services.supervisor.builders import POOL, owned_request

NAMES = TopicNames(prefix="p.")
DEAD = Incarnation("w-0.dead")
Headers = tuple[tuple[str, bytes | None], ...]


def record(offset: int, headers: Headers = ()) -> SourceRecord:
    return SourceRecord(
        topic="source",
        partition=0,
        offset=offset,
        timestamp_ms=1_000,
        key=b"key",
        value=b"{}",
        headers=headers,
    )


def id_of(found: SourceRecord) -> RequestId:
    return read_envelope(found, names=NAMES, pool=POOL, cluster="c").request_id


class World:
    """Ledger and Kafka in one, noting everything in order."""

    def __init__(self, *records: SourceRecord) -> None:
        self.records = {found.offset: found for found in records}
        self.owned_requests = [owned_request(id_of(found), offset=found.offset) for found in records]
        self.moved_on: set[RequestId] = set()
        self.done: list[tuple[str, object]] = []
        self.sent: list[tuple[str, bytes | None, bytes | None, Headers]] = []
        self.partitions: list[int | None] = []
        self.answered: list[RequestId] = []
        self.answer_error: Exception | None = None
        self.fetch_error: Exception | None = None
        self.orphan_error: Exception | None = None
        self.send_error: Exception | None = None

    async def owned(self, incarnation: Incarnation) -> list[OwnedRequest]:
        assert incarnation == DEAD
        return list(self.owned_requests)

    async def orphan(self, request_id: RequestId, token: ClaimToken) -> bool:
        if self.orphan_error is not None:
            raise self.orphan_error
        self.done.append(("orphan", request_id))
        found = [request for request in self.owned_requests if request.request_id == request_id]
        self.owned_requests = [request for request in self.owned_requests if request not in found]
        return bool(found) and request_id not in self.moved_on

    async def fetch(self, topic: str, partition: int, offset: int) -> SourceRecord | None:
        assert (topic, partition) == ("source", 0)
        self.done.append(("fetch", offset))
        if self.fetch_error is not None:
            raise self.fetch_error
        return self.records.get(offset)

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> object:
        self.partitions.append(partition)
        self.done.append(("send", key))
        if self.send_error is not None:
            raise self.send_error
        self.sent.append((topic, key, value, tuple(headers)))
        return None

    async def answer(self, owned: OwnedRequest) -> bool:
        if self.answer_error is not None:
            raise self.answer_error
        self.answered.append(owned.request_id)
        self.owned_requests.remove(owned)
        return owned.request_id not in self.moved_on


def reassignment(world: World, partition: int | None = None) -> Reassignment:
    def place(pool: str, topic: str) -> int | None:
        assert (pool, topic) == (POOL, NAMES.resume(POOL))
        return partition

    return Reassignment(
        world, world, world.fetch, unrunnable=world, place=place, names=NAMES, cluster="c", concurrency=4
    )


@pytest.mark.parametrize("partition", [None, 5])
async def test_the_copy_goes_where_somebody_reads_it_now(partition: int | None) -> None:
    world = World(record(7))
    await reassignment(world, partition).take_over(DEAD)
    assert world.partitions == [partition]


async def test_the_record_is_found_then_taken_then_copied() -> None:
    world = World(record(7))
    assert await reassignment(world).take_over(DEAD) == 1
    assert [step for step, _ in world.done] == ["fetch", "orphan", "send"]


async def test_the_copy_reads_as_the_original_and_carries_its_coordinates() -> None:
    original = record(7, ((names_of.TENANT, b"acme"), ("x-odd", b"\xff"), ("x-null", None)))
    world = World(original)
    await reassignment(world).take_over(DEAD)
    ((topic, key, value, headers),) = world.sent
    assert topic == "p.inference.requests.default.resume"
    assert key == id_of(original).encode()
    assert value == original.value
    assert set(original.headers) <= set(headers)
    copied = dict(headers)
    assert copied[names_of.REQUEST_ID] == id_of(original).encode()
    assert copied[names_of.SOURCE_OFFSET] == b"7"
    assert copied[names_of.SOURCE_KEY] == b"key"


async def test_the_copy_says_which_attempt_it_was() -> None:
    world = World(record(7))
    world.owned_requests = [owned_request(id_of(record(7)), offset=7, attempt=3)]
    await reassignment(world).take_over(DEAD)
    assert dict(world.sent[0][3])[names_of.ATTEMPT] == b"3"


async def test_a_worker_that_owns_nothing_is_no_work() -> None:
    world = World()
    assert await reassignment(world).take_over(DEAD) == 0
    assert world.done == []


async def test_a_request_that_has_moved_on_is_not_copied() -> None:
    world = World(record(1), record(2))
    world.moved_on.add(id_of(record(1)))
    assert await reassignment(world).take_over(DEAD) == 1
    assert [key for _, key, _, _ in world.sent] == [id_of(record(2)).encode()]


async def test_taking_over_again_finds_nothing_left() -> None:
    world = World(record(1), record(2))
    takes = reassignment(world)
    assert await takes.take_over(DEAD) == 2
    assert await takes.take_over(DEAD) == 0
    assert len(world.sent) == 2


async def test_while_kafka_cannot_be_read_the_requests_stay_owned() -> None:
    world = World(record(1))
    world.fetch_error = BrokerUnavailable("away")
    takes = reassignment(world)
    assert await takes.take_over(DEAD) == 0
    assert ("orphan", id_of(record(1))) not in world.done
    world.fetch_error = None
    assert await takes.take_over(DEAD) == 1


async def test_while_the_ledger_is_away_nothing_is_copied() -> None:
    world = World(record(1))
    world.orphan_error = LedgerUnavailable("away")
    takes = reassignment(world)
    assert await takes.take_over(DEAD) == 0
    assert world.sent == []
    world.orphan_error = None
    assert await takes.take_over(DEAD) == 1


async def test_a_copy_that_was_not_acknowledged_is_kept_and_sent_again() -> None:
    world = World(record(1))
    world.send_error = BrokerUnavailable("away")
    takes = reassignment(world)
    assert await takes.take_over(DEAD) == 0
    assert takes.num_unsent == 1
    assert await takes.resend() == 0
    world.send_error = None
    assert await takes.resend() == 1
    assert takes.num_unsent == 0
    assert await takes.resend() == 0
    assert len(world.sent) == 1


async def test_a_copy_too_large_for_the_topic_is_given_up_loudly() -> None:
    world = World(record(1))
    world.send_error = OutcomeTooLarge("too large")
    takes = reassignment(world)
    with capture_logs() as logs:
        assert await takes.take_over(DEAD) == 0
    assert takes.num_unsent == 0
    assert id_of(record(1)) in {line.get("request_id") for line in logs if line["log_level"] == "error"}


@pytest.mark.parametrize("in_its_place", [None, record(5, ((names_of.CE_ID, b"other"),))])
async def test_a_request_whose_record_is_gone_or_another_is_answered_and_not_looked_for_for_ever(
    in_its_place: SourceRecord | None,
) -> None:
    world = World(record(5))
    world.records = {} if in_its_place is None else {5: in_its_place}
    takes = reassignment(world)
    with capture_logs() as logs:
        assert await takes.take_over(DEAD) == 0
    reasons = [line["reason"] for line in logs if line["log_level"] == "error"]
    assert reasons == ["record-gone" if in_its_place is None else "record-differs"]
    assert world.sent == []
    assert await takes.take_over(DEAD) == 0
    assert world.owned_requests == []
    assert world.answered == [id_of(record(5))]
    assert "orphan" not in [step for step, _ in world.done], "until it is finished the next round finds it"


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), LedgerUnavailable("away")])
async def test_an_answer_that_fails_is_given_in_the_next_round(error: Exception) -> None:
    world = World(record(5))
    world.records, world.answer_error = {}, error
    takes = reassignment(world)
    assert await takes.take_over(DEAD) == 0
    assert len(world.owned_requests) == 1
    world.answer_error = None
    await takes.take_over(DEAD)
    assert world.answered == [id_of(record(5))]


async def test_one_bad_request_does_not_hold_up_the_others() -> None:
    world = World(*(record(offset) for offset in range(20)))
    del world.records[3]
    assert await reassignment(world).take_over(DEAD) == 19
