"""Dispatching the channel's messages: who gets what, and what an overflow does."""

import asyncio

import pytest

from services.gateway.stream_router import StreamRouter, Subscription
from shared.contracts.events import Chunk, Outcome, SealedOutcome
from shared.contracts.identifiers import RequestId
from shared.contracts.requests import WireFormat
from shared.ledger.records import LOST, StreamMessage
from shared.resilience.clock import ManualClock

ONE, TWO = RequestId("1" * 32), RequestId("2" * 32)


def says(text: str, request_id: RequestId = ONE, position: int = 0) -> StreamMessage:
    return StreamMessage(request_id=request_id, chunk=Chunk(choice=0, position=position, token_ids=(1,), text=text))


def ends(request_id: RequestId = ONE) -> StreamMessage:
    sealed = SealedOutcome(
        request_id=request_id,
        outcome=Outcome.COMPLETED,
        wire_format=WireFormat.JSON,
        value=b"{}",
        headers=(),
        reply_to=None,
        sealed_at_ms=0,
    )
    return StreamMessage(request_id=request_id, terminal=sealed)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def router(clock: ManualClock) -> StreamRouter:
    return StreamRouter(buffer_chunks=3, monotonic=clock.monotonic)


def texts(subscription: Subscription) -> list[str]:
    return [chunk.text for chunk in subscription.take()]


async def is_waiting(subscription: Subscription) -> bool:
    """Whether `wait` would block now."""
    task = asyncio.ensure_future(subscription.wait())
    await asyncio.sleep(0)
    if task.done():
        return False
    task.cancel()
    return True


def test_each_reader_gets_the_messages_of_its_request_in_order(router: StreamRouter) -> None:
    first, also_first, second = router.open(ONE), router.open(ONE), router.open(TWO)
    router.dispatch([says("a"), says("x", TWO), says("b")])
    assert texts(first) == ["a", "b"]
    assert texts(also_first) == ["a", "b"]
    assert texts(second) == ["x"]


def test_messages_of_nobody_are_dropped(router: StreamRouter) -> None:
    subscription = router.open(ONE)
    router.close(subscription)
    router.dispatch([says("a"), ends(TWO)])
    assert texts(subscription) == []
    assert router.num_streams == 0


def test_one_reader_leaves_the_others_stay(router: StreamRouter) -> None:
    leaving, staying = router.open(ONE), router.open(ONE)
    router.close(leaving)
    router.dispatch([says("a")])
    assert texts(staying) == ["a"]
    assert texts(leaving) == []


def test_an_overflow_empties_the_queue_and_keeps_the_terminal(router: StreamRouter) -> None:
    subscription = router.open(ONE)
    router.dispatch([*(says(str(number)) for number in range(5)), ends()])
    assert subscription.has_overflowed
    assert texts(subscription) == []
    assert subscription.terminal is not None


def test_a_reader_of_the_outcome_only_holds_no_chunks_and_is_not_woken_by_them(router: StreamRouter) -> None:
    subscription = router.open(ONE, wants_chunks=False)
    router.dispatch([says(str(number)) for number in range(5)])
    assert texts(subscription) == []
    assert not subscription.has_overflowed
    router.dispatch([ends()])
    assert subscription.terminal is not None


def test_a_lost_channel_makes_every_stream_suspect(router: StreamRouter) -> None:
    first, second = router.open(ONE), router.open(TWO)
    router.dispatch([LOST])
    assert first.is_suspect
    assert second.is_suspect


async def test_a_wake_up_before_the_wait_is_not_lost_and_counts_once(router: StreamRouter) -> None:
    subscription = router.open(ONE)
    subscription.wake()
    assert not await is_waiting(subscription)
    assert await is_waiting(subscription)


async def test_a_message_wakes_the_waiting_reader(router: StreamRouter) -> None:
    subscription = router.open(ONE)
    task = asyncio.ensure_future(subscription.wait())
    await asyncio.sleep(0)
    assert not task.done()
    router.dispatch([says("a")])
    await asyncio.wait_for(task, 1)


async def test_only_quiet_readers_are_woken_by_the_tick(router: StreamRouter, clock: ManualClock) -> None:
    quiet, lively = router.open(ONE), router.open(TWO)
    clock.move(1)
    router.dispatch([says("x", TWO)])
    await lively.wait()
    router.wake_quiet(1.0)
    assert not await is_waiting(quiet)
    assert await is_waiting(lively)


async def test_the_end_wakes_everybody(router: StreamRouter) -> None:
    subscription = router.open(ONE)
    router.end()
    assert router.is_ending
    assert not await is_waiting(subscription)
