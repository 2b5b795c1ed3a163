"""When Redis lost its data: who puts back what, in which order, and when claims are answered again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.worker.recovery import ELECTION, Recovery
from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable
from shared.contracts.events import Outcome, PublishedOutcome, SealedOutcome
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Cancellation, WireFormat
from shared.ledger.records import Epoch
from shared.resilience.clock import ManualClock
from shared.resilience.lifecycle import run_persistently
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.fakes.ledger_store import FIRST_EPOCH, Store

NOW_MS = 1_700_000_000_000
GRACE_SECONDS = 1.5


def published(name: str, value: bytes = b"{}") -> PublishedOutcome:
    outcome = SealedOutcome(
        request_id=RequestId(name),
        outcome=Outcome.COMPLETED,
        wire_format=WireFormat.JSON,
        value=value,
        headers=(),
        reply_to=None,
        sealed_at_ms=NOW_MS,
    )
    return PublishedOutcome(outcome=outcome, tenant="", pool="default", coordinates=None)


@dataclass
class ScriptedArchive:
    published: list[PublishedOutcome] = field(default_factory=list)
    wishes: list[Cancellation] = field(default_factory=list)
    failures: int = 0
    asked_since_ms: list[int] = field(default_factory=list)

    async def outcomes(self, since_ms: int) -> AsyncIterator[PublishedOutcome]:
        self.asked_since_ms.append(since_ms)
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("Kafka is away too")
        for one in self.published:
            yield one

    async def cancellations(self, since_ms: int) -> AsyncIterator[Cancellation]:
        for wish in self.wishes:
            yield wish

    async def is_virgin(self) -> bool:
        return not self.published and not self.failures


class World:
    """One worker's recovery on a store that it may share with others."""

    def __init__(self, store: Store | None = None, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock(now_ms=NOW_MS)
        self.store = store or Store(now_ms=self.clock.now_ms)
        self.ledger = InMemoryLedger(store=self.store)
        self.archive = ScriptedArchive()
        self.journal: list[str] = []
        self.failures_of_put_back = 0
        self.recovery = Recovery(
            self.ledger,
            self.archive,
            put_back=self._put_back,
            clock=self.clock,
            grace_seconds=GRACE_SECONDS,
            window_seconds=60,
        )

    async def _put_back(self) -> None:
        if self.failures_of_put_back:
            self.failures_of_put_back -= 1
            raise LedgerUnavailable("away again")
        self.journal.append("put back")

    def refresh(self) -> None:
        self.recovery.noticed(self.store.epoch)

    async def pass_seconds(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.refresh()
            await self.clock.advance(0.1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(run_persistently("recovery", self.recovery.run, clock=self.clock))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_an_installation_that_never_answered_anything_starts_at_once() -> None:
    world = World()
    world.store.epoch = None
    async with world.running():
        await world.pass_seconds(0.2)
    assert world.store.epoch is not None
    assert not world.store.epoch.is_refilled
    assert world.journal == []


async def test_what_was_answered_is_back_before_claims_are_answered() -> None:
    world = World()
    world.archive.published = [published(f"r{number}") for number in range(600)]
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await world.pass_seconds(GRACE_SECONDS - 0.2)
        assert world.store.epoch is None, "others still put theirs back"
        assert not world.store.entries
        await world.pass_seconds(0.5)
    assert world.store.epoch is not None
    assert world.store.epoch.is_refilled
    assert len(world.store.entries) == 600
    assert world.archive.asked_since_ms == [NOW_MS - 60_000]


async def test_of_two_terminals_of_a_request_the_first_one_counts() -> None:
    world = World()
    world.archive.published = [published("r", b"first"), published("r", b"second")]
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await world.pass_seconds(3)
    sealed = world.store.entries["r"].sealed
    assert sealed is not None
    assert sealed.value == b"first"


async def test_cancellations_are_put_back_for_requests_that_are_not_known_yet() -> None:
    world = World()
    world.archive.published = [published("other")]
    world.archive.wishes = [Cancellation(request_id=RequestId("r"), tenant=None, reason="enough")]
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await world.pass_seconds(3)
    assert world.store.entries["r"].tombstones == {None: "enough"}


async def test_a_worker_puts_back_what_it_holds_as_soon_as_it_notices() -> None:
    world = World()
    world.archive.published = [published("r")]
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await world.pass_seconds(0.1)
        assert world.journal == ["put back"]
        assert world.store.epoch is None
        await world.pass_seconds(3)
        assert world.journal == ["put back"], "once for every loss"


async def test_a_loss_that_others_have_repaired_meanwhile_is_noticed_by_its_epoch() -> None:
    world = World()
    async with world.running():
        world.refresh()
        world.store.epoch = Epoch(name="another", opened_at_ms=1, is_refilled=True)
        await world.pass_seconds(0.2)
    assert world.journal == ["put back"]


async def test_putting_back_is_tried_again_when_redis_goes_away_once_more() -> None:
    world = World()
    world.failures_of_put_back = 2
    async with world.running():
        world.refresh()
        world.store.epoch = None
        await world.pass_seconds(5)
    assert world.journal == ["put back"]
    assert world.store.epoch is not None


async def test_with_kafka_away_as_well_claims_wait_for_it() -> None:
    world = World()
    world.archive.published = [published("r")]
    world.archive.failures = 2
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await world.pass_seconds(GRACE_SECONDS + 0.2)
        assert world.store.epoch is None
        await world.pass_seconds(20)
    assert world.store.epoch is not None
    assert "r" in world.store.entries


async def test_one_worker_refills_and_all_go_on() -> None:
    first = World()
    second = World(first.store, first.clock)
    first.archive.published = second.archive.published = [published("r")]
    async with first.running(), second.running():
        first.refresh()
        second.refresh()
        first.store.lose_everything()
        for _ in range(40):
            second.refresh()
            await first.pass_seconds(0.1)
    assert first.journal == second.journal == ["put back"]
    assert len(first.archive.asked_since_ms) + len(second.archive.asked_since_ms) == 1
    assert first.store.num_epochs == 2


async def test_when_the_elected_one_dies_another_refills() -> None:
    world = World()
    world.archive.published = [published("r")]
    async with world.running():
        world.refresh()
        world.store.lose_everything()
        await InMemoryLedger(store=world.store).elect(ELECTION, ttl_ms=5_000)  # and says no more
        await world.pass_seconds(4)
        assert world.store.epoch is None
        await world.pass_seconds(4)
    assert world.store.epoch is not None


@pytest.mark.parametrize("num_refreshes", [1, 5])
async def test_an_epoch_that_stays_needs_nothing(num_refreshes: int) -> None:
    world = World()
    async with world.running():
        await world.pass_seconds(num_refreshes / 10)
    assert world.journal == []
    assert world.store.epoch == FIRST_EPOCH
    assert world.archive.asked_since_ms == []
