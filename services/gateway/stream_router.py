"""Hands the messages of the gateway's one pub/sub channel to the requests that wait for them.

Dispatching never waits: a request's queue is bounded, and one that overflows is emptied and told to read the log.
It knows neither what a chunk says nor how it reaches a client.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from shared.contracts.events import Chunk, SealedOutcome
from shared.contracts.identifiers import RequestId
from shared.ledger.records import StreamMessage


class Subscription:
    """What one reader of one request has not taken yet. Used on the event loop's thread only."""

    __slots__ = (
        "_chunks",
        "_is_woken",
        "_limit",
        "_waiter",
        "has_overflowed",
        "is_suspect",
        "last_heard_at",
        "request_id",
        "terminal",
        "wants_chunks",
    )

    def __init__(self, request_id: RequestId, *, limit: int, now: float, wants_chunks: bool = True) -> None:
        self.request_id = request_id
        self.wants_chunks = wants_chunks
        self.terminal: SealedOutcome | None = None
        self.has_overflowed = False
        self.is_suspect = False
        """The channel was lost for a while: what came in between is in the log only."""
        self.last_heard_at = now
        self._limit = limit
        self._is_woken = False
        self._chunks: deque[Chunk] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def push(self, message: StreamMessage, now: float) -> None:
        self.last_heard_at = now
        if message.chunk is not None:
            if not self.wants_chunks:
                return
            if len(self._chunks) >= self._limit:
                self._chunks.clear()
                self.has_overflowed = True
            if not self.has_overflowed:
                self._chunks.append(message.chunk)
        if message.terminal is not None:
            self.terminal = message.terminal
        self.wake()

    def suspect(self) -> None:
        self.is_suspect = True
        self.wake()

    def take(self) -> list[Chunk]:
        taken = list(self._chunks)
        self._chunks.clear()
        return taken

    def wake(self) -> None:
        """Let the reader look around: a message, a tick, a disconnect, the gateway's end."""
        self._is_woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Until somebody wakes it; at once when somebody did since the last wait."""
        if not self._is_woken:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_woken = False


class StreamRouter:
    """Subscriptions by request. Several readers may follow one request."""

    def __init__(self, *, buffer_chunks: int, monotonic: Callable[[], float]) -> None:
        self._buffer_chunks = buffer_chunks
        self._monotonic = monotonic
        self._subscriptions: dict[RequestId, tuple[Subscription, ...]] = {}
        self.is_ending = False
        """Set at the end of a drain: every reader winds up with a note instead of its rest."""

    @property
    def num_streams(self) -> int:
        return sum(map(len, self._subscriptions.values()))

    def open(self, request_id: RequestId, *, wants_chunks: bool = True) -> Subscription:
        """Call it before the ledger is told of the channel, so that nothing falls in between."""
        subscription = Subscription(
            request_id, limit=self._buffer_chunks, now=self._monotonic(), wants_chunks=wants_chunks
        )
        self._subscriptions[request_id] = (*self._subscriptions.get(request_id, ()), subscription)
        return subscription

    def close(self, subscription: Subscription) -> None:
        others = self._subscriptions.get(subscription.request_id, ())
        left = tuple(other for other in others if other is not subscription)
        if left:
            self._subscriptions[subscription.request_id] = left
        else:
            self._subscriptions.pop(subscription.request_id, None)

    def dispatch(self, messages: Iterable[StreamMessage]) -> None:
        now = self._monotonic()
        subscriptions = self._subscriptions
        for message in messages:
            if message.request_id is None:
                self._suspect_all()
                continue
            for subscription in subscriptions.get(message.request_id, ()):
                subscription.push(message, now)

    def wake_quiet(self, quiet_seconds: float) -> None:
        """Let readers that heard nothing for so long look at the log, the time and their client."""
        horizon = self._monotonic() - quiet_seconds
        for subscription in self._all():
            if subscription.last_heard_at <= horizon:
                subscription.wake()

    def end(self) -> None:
        self.is_ending = True
        for subscription in self._all():
            subscription.wake()

    def _suspect_all(self) -> None:
        for subscription in self._all():
            subscription.suspect()

    def _all(self) -> list[Subscription]:
        return [one for several in self._subscriptions.values() for one in several]
