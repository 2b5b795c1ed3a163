"""The grace of a disconnected client, on a manual clock."""

import pytest

from services.gateway.abandonment import REASON, Abandonments
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import Lane
from shared.ledger.records import Registration
from shared.resilience.clock import ManualClock
from tests.fakes.in_memory_ledger import InMemoryLedger

ID = RequestId("a" * 32)
HERE, ELSEWHERE = "gateway-1", "gateway-2"


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.ledger = InMemoryLedger()
        self.abandonments = Abandonments(self.ledger, channel=HERE, grace_seconds=5, monotonic=self.clock.monotonic)

    async def register(self) -> None:
        registration = Registration(
            request_id=ID,
            pool="default",
            lane=Lane.INTERACTIVE,
            tenant="t",
            deadline_ms=None,
            fingerprint="f",
            seed=1,
        )
        await self.ledger.register(registration, channel=HERE)
        self.abandonments.joined(ID)

    async def after(self, seconds: float) -> str | None:
        """The reason for which the request is cancelled after so long, if it is."""
        self.clock.move(seconds)
        await self.abandonments.sweep()
        return self.ledger.store.entries[ID].cancel


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.register()
    return made


async def test_who_stays_away_loses_the_request_after_the_grace_and_not_before(bench: Bench) -> None:
    bench.abandonments.left(ID, has_ended=False)
    assert await bench.after(4.9) is None
    assert await bench.after(0.2) == REASON


async def test_who_comes_back_in_time_keeps_it(bench: Bench) -> None:
    bench.abandonments.left(ID, has_ended=False)
    await bench.after(4)
    bench.abandonments.joined(ID)
    assert await bench.after(60) is None


async def test_who_leaves_again_gets_the_whole_grace_again(bench: Bench) -> None:
    bench.abandonments.left(ID, has_ended=False)
    await bench.after(4)
    bench.abandonments.joined(ID)
    bench.abandonments.left(ID, has_ended=False)
    assert await bench.after(4) is None
    assert await bench.after(1) == REASON


async def test_one_reader_of_two_leaving_ends_nothing(bench: Bench) -> None:
    bench.abandonments.joined(ID)
    bench.abandonments.left(ID, has_ended=False)
    assert await bench.after(60) is None


async def test_a_reader_at_another_gateway_keeps_it(bench: Bench) -> None:
    await bench.ledger.attach(ID, channel=ELSEWHERE)
    bench.abandonments.left(ID, has_ended=False)
    assert await bench.after(6) is None
    assert bench.ledger.store.entries[ID].subscribers == [ELSEWHERE]


async def test_an_ended_request_is_not_cancelled(bench: Bench) -> None:
    bench.abandonments.left(ID, has_ended=True)
    assert await bench.after(60) is None


async def test_while_the_ledger_is_away_nobody_can_come_back_so_the_grace_begins_anew(bench: Bench) -> None:
    bench.abandonments.left(ID, has_ended=False)
    bench.ledger.available = False
    bench.clock.move(6)
    await bench.abandonments.sweep()
    bench.ledger.available = True
    assert await bench.after(4.9) is None
    assert await bench.after(0.2) == REASON


async def test_who_comes_back_while_the_ledger_is_asked_is_subscribed_again(bench: Bench) -> None:
    detach = bench.ledger.detach

    async def detach_and_return(request_id: RequestId, *, channel: str) -> int:
        left = await detach(request_id, channel=channel)
        bench.abandonments.joined(request_id)
        return left

    bench.ledger.detach = detach_and_return  # type: ignore[method-assign]
    bench.abandonments.left(ID, has_ended=False)
    assert await bench.after(6) is None
    assert bench.ledger.store.entries[ID].subscribers == [HERE]
