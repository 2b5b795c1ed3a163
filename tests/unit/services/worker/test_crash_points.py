"""A worker dies, freezes or is not heard before and after each of its calls to the world: the request is answered once.

The real request path, stepped by hand. Every call to the ledger and to Kafka on a request's way is a point.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from shared.contracts.errors import BrokerUnavailable, LedgerUnavailable
from shared.contracts.identifiers import RequestId
from tests.unit.services.worker.path_harness import JournalDelivery, PathHarness, running_path, undisturbed

VERBS = ("claim", "append", "seal", "finish", "release")
BODY: dict[str, Any] = {"max_tokens": 6, "n": 2, "return_token_ids": True, "seed": 7}
CALLS = (("claim", 1), ("append", 1), ("append", 2), ("seal", 1), ("send", 1), ("finish", 1))
"""In the order in which a request meets them; which of several calls of that name is meant."""
POINTS = [pytest.param(*call, when, id=f"{when} {call[0]} {call[1]}") for call in CALLS for when in ("before", "after")]
at_every_point = pytest.mark.parametrize(("name", "number", "when"), POINTS)


class Point:
    """The call at which something happens to a worker; `reached` says that it came so far."""

    def __init__(self, name: str, number: int, when: str) -> None:
        self.name, self.number, self.when = name, number, when
        self.reached = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.num_calls = 0

    def strike(self, harness: PathHarness, act: Callable[[str], Awaitable[None]]) -> None:
        """From now on each call of this worker is counted, and `act` is awaited at the one that is meant."""
        for owner, names in ((harness.ledger, VERBS), (harness.results, ("send",))):
            for name in names:
                setattr(owner, name, self._struck(getattr(owner, name), name, act))

    def _struck(self, call: Callable[..., Awaitable[Any]], name: str, act: Callable[[str], Awaitable[None]]) -> Any:
        async def asked(*arguments: Any, **options: Any) -> Any:
            self.num_calls += name == self.name
            if name != self.name or self.num_calls != self.number:
                if self.reached.is_set():
                    await self._pass_on()
                return await call(*arguments, **options)
            if self.when == "before":
                self.reached.set()
                await act(name)
                return await call(*arguments, **options)
            answer = await call(*arguments, **options)
            self.reached.set()
            await act(name)
            return answer

        return asked

    async def _pass_on(self) -> None:
        """Whoever is dead or stopped asks nothing more; a call that merely failed does not hold up the next."""

    async def stop(self, name: str) -> None:
        del name
        await self.goes_on.wait()


class Stop(Point):
    """The whole worker stops there, all of its tasks with it."""

    async def _pass_on(self) -> None:
        await self.goes_on.wait()


async def fail(name: str) -> None:
    raise BrokerUnavailable("not heard") if name == "send" else LedgerUnavailable("not heard")


@contextlib.asynccontextmanager
async def struck_worker(
    point: Point, act: Callable[[str], Awaitable[None]]
) -> AsyncIterator[tuple[PathHarness, JournalDelivery]]:
    """A worker that has run into the point."""
    async with running_path() as first:
        point.strike(first, act)
        delivery = first.ask(**BODY)
        await first.until(point.reached.is_set)
        yield first, delivery


async def answered_by_another(first: PathHarness) -> PathHarness:
    """The dead one's lease has ended, and its record is delivered to somebody else."""
    first.store.leases.pop(first.incarnation, None)
    async with running_path(store=first.store, name="worker-1") as second:
        delivery = second.ask(**BODY)
        await second.until(lambda: delivery.is_done)
        return second


def terminals(*workers: PathHarness) -> set[tuple[bytes | None, tuple[tuple[str, bytes | None], ...]]]:
    return {(value, tuple(sorted(headers.items()))) for worker in workers for _, value, headers in worker.results.sent}


def texts(body: dict[str, Any]) -> list[str]:
    return [choice["text"] for choice in body["choices"]]


@at_every_point
async def test_a_worker_that_dies_leaves_one_answer_and_the_same_text(name: str, number: int, when: str) -> None:
    point = Stop(name, number, when)
    async with struck_worker(point, point.stop) as (first, _):
        second = await answered_by_another(first)
        (terminal,) = terminals(first, second)
        assert texts(json.loads(terminal[0] or b"")) == texts(await undisturbed(**BODY))
        assert not second.dead_letters


@at_every_point
async def test_a_worker_that_is_stopped_and_goes_on_later_says_nothing_else(name: str, number: int, when: str) -> None:
    point = Stop(name, number, when)
    async with struck_worker(point, point.stop) as (first, delivery):
        second = await answered_by_another(first)
        point.goes_on.set()
        await first.until(lambda: delivery.is_done)
        (terminal,) = terminals(first, second)
        assert texts(json.loads(terminal[0] or b"")) == texts(await undisturbed(**BODY))


@at_every_point
async def test_a_call_whose_answer_is_lost_is_made_again_and_changes_nothing(name: str, number: int, when: str) -> None:
    async with struck_worker(Point(name, number, when), fail) as (first, delivery):
        await first.until(lambda: delivery.is_done)
        (terminal,) = terminals(first)
        assert texts(json.loads(terminal[0] or b"")) == texts(await undisturbed(**BODY))


@at_every_point
async def test_a_cancelled_request_whose_worker_dies_has_one_end(name: str, number: int, when: str) -> None:
    point = Stop(name, number, when)
    async with struck_worker(point, point.stop) as (first, _):
        for request_id in list(first.store.entries):
            await first.ledger.cancel(RequestId(request_id), reason="user", tenant=None)
        second = await answered_by_another(first)
        assert len(terminals(first, second)) == 1
        is_sealed = name in ("send", "finish") or (name, when) == ("seal", "after")
        has_begun = first.store.entries and (name, when) != ("claim", "before")
        expected = "completed" if is_sealed else "cancelled" if has_begun else "completed"
        assert {*first.outcomes(), *second.outcomes()} == {expected}
