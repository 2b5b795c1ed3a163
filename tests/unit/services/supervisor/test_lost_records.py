"""A request whose record Kafka no longer has ends all the same: sealed, published, finished."""

import json
from collections.abc import Sequence

import pytest

from services.supervisor.lost_records import LostRecords
from shared.contracts.errors import BrokerUnavailable
from shared.contracts.events import Outcome, SealedOutcome
from shared.contracts.identifiers import Incarnation, RequestId
from shared.contracts.requests import Coordinates, Lane, WireFormat
from shared.contracts.topics import TopicNames
from shared.ledger.records import ClaimRequest, OwnedRequest, Registration, RequestState, Run
from shared.resilience.clock import ManualClock
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import Store

NAMES = TopicNames()
ID = RequestId("a" * 32)
DEAD = Incarnation("w-0.dead")


class Results:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, dict[str, bytes | None]]] = []
        self.failures = 0

    async def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> object:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away")
        self.sent.append((topic, value, dict(headers)))
        return None


class World:
    def __init__(self) -> None:
        self.clock = ManualClock(now_ms=1_700_000_000_000)
        self.store = Store(now_ms=self.clock.now_ms)
        self.ledger = InMemoryLedger(store=self.store)
        self.results = Results()
        self.records = LostRecords(self.ledger, self.results, names=NAMES, now_ms=self.clock.now_ms)

    async def owned(self, *, deadline_ms: int | None = None) -> OwnedRequest:
        request = ClaimRequest(
            registration=Registration(
                request_id=ID, pool="default", lane=Lane.BULK, tenant="acme", deadline_ms=deadline_ms,
                fingerprint="f", seed=1,
            ),
            incarnation=DEAD,
            coordinates=Coordinates(topic="requests", partition=2, offset=7, timestamp_ms=1_600_000_000_000),
            max_attempts=3,
        )  # fmt: skip
        await self.ledger.claim(request)
        await self.clock.advance(2)
        (owned,) = await self.ledger.owned(DEAD)
        return owned

    def outcomes(self) -> list[str]:
        return [(headers["ce_type"] or b"").decode().split(".")[2] for _, _, headers in self.results.sent]


@pytest.fixture
def world() -> World:
    return World()


async def test_its_caller_is_told_that_it_failed_and_why(world: World) -> None:
    assert await world.records.answer(await world.owned())
    ((topic, value, headers),) = world.results.sent
    assert topic == NAMES.results
    error = json.loads(value or b"")["error"]
    assert error["code"] == "worker_lost"
    assert "retention" in error["message"]
    assert (headers["ce_id"], headers["penstock-source-offset"]) == (ID.encode(), b"7")
    assert headers["penstock-tenant"] == b"acme"
    assert world.store.entries[ID].state is RequestState.FINISHED
    assert await world.ledger.owned(DEAD) == []


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_what_a_verdict_has_decided_is_what_is_said(world: World, is_cancelled: bool) -> None:
    deadline_ms = None if is_cancelled else 1
    if is_cancelled:
        await world.ledger.cancel(ID, reason="enough", tenant=None)
    owned = await world.owned(deadline_ms=deadline_ms)
    assert owned.state is RequestState.DECIDED
    assert await world.records.answer(owned)
    assert world.outcomes() == ["cancelled" if is_cancelled else "expired"]


async def test_what_was_sealed_already_is_published_as_it_is(world: World) -> None:
    owned = await world.owned()
    sealed = SealedOutcome(
        request_id=ID, outcome=Outcome.COMPLETED, wire_format=WireFormat.JSON, value=b"{}",
        headers=(("ce_type", b"penstock.inference.completed.v1"),), reply_to=None, sealed_at_ms=5,
    )  # fmt: skip
    await world.ledger.seal(ID, owned.token, sealed)
    assert await world.records.answer(owned)
    assert [value for _, value, _ in world.results.sent] == [b"{}"]


async def test_a_crash_before_the_acknowledgement_repeats_the_same_bytes(world: World) -> None:
    owned = await world.owned()
    world.results.failures = 1
    with pytest.raises(BrokerUnavailable):
        await world.records.answer(owned)
    sealed = world.store.entries[ID].sealed
    await world.clock.advance(60)
    (again,) = await world.ledger.owned(DEAD)
    assert await world.records.answer(again)
    assert sealed is not None
    assert [value for _, value, _ in world.results.sent] == [sealed.value]


async def test_who_was_taken_over_meanwhile_is_left_alone(world: World) -> None:
    owned = await world.owned()
    await world.ledger.orphan(ID, owned.token)
    heir = world.store.entries[ID].claimed
    assert heir is not None
    assert isinstance(await world.ledger.claim(heir), Run)
    assert not await world.records.answer(owned)
    assert world.results.sent == []
