"""What ends a client's wait, and what its end means for the request and the gateway's place."""

import pytest

from services.gateway.abandonment import Abandonments
from services.gateway.following import Following, Followings, GatewayStopping
from services.gateway.stream_router import StreamRouter
from shared.contracts.errors import DeadlineExceeded
from shared.contracts.identifiers import RequestId
from shared.resilience.clock import ManualClock
from tests.fakes.in_memory_ledger import InMemoryLedger
from tests.unit.services.gateway.test_admission import Door

ID = RequestId("b" * 32)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock(now_ms=1_000_000)
        self.router = StreamRouter(buffer_chunks=4, monotonic=self.clock.monotonic)
        self.ledger = InMemoryLedger()
        self.abandonments = Abandonments(self.ledger, channel="c", grace_seconds=5, monotonic=self.clock.monotonic)
        self.door = Door(max_outstanding_requests=1)
        self.admission = self.door.admission
        self.followings = Followings(
            ledger=self.ledger,
            channel="c",
            router=self.router,
            abandonments=self.abandonments,
            clock=self.clock,
            silence_seconds=1,
        )

    def follow(self, deadline_ms: int | None = None) -> Following:
        subscription = self.followings.subscribe(ID, wants_chunks=True)
        return self.followings.follow(subscription, num_choices=1, deadline_ms=deadline_ms, place=self.door.enter())


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_wait_does_not_outlast_its_deadline_for_ever(bench: Bench) -> None:
    following = bench.follow(deadline_ms=1_010_000)
    bench.clock.move(39)
    bench.router.wake_quiet(1)
    assert (await following.next()).terminal is None
    bench.clock.move(2)
    bench.router.wake_quiet(1)
    with pytest.raises(DeadlineExceeded):
        await following.next()


async def test_the_end_of_the_drain_ends_the_wait_with_a_note(bench: Bench) -> None:
    following = bench.follow()
    bench.router.end()
    with pytest.raises(GatewayStopping, match=f"/v1/requests/{ID}/stream"):
        await following.next()
    following.close()
    assert bench.abandonments._due_at == {}


async def test_a_disconnect_wakes_the_wait_and_starts_the_grace(bench: Bench) -> None:
    following = bench.follow()
    following.disconnected()
    assert (await following.next()).chunks == []
    assert following.is_disconnected
    following.close()
    assert list(bench.abandonments._due_at) == [ID]


def test_closing_gives_everything_back(bench: Bench) -> None:
    following = bench.follow()
    assert (bench.admission.outstanding_requests, bench.router.num_streams) == (1, 1)
    following.close()
    assert (bench.admission.outstanding_requests, bench.router.num_streams) == (0, 0)
