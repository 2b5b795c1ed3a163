"""A pub/sub channel as an async iterator that survives lost connections and says when it did.

Pub/sub promises nothing: whoever listens reads the log again after a `None` (a connection was lost) and every
silent second (DELIVERY line 12). It does not know what the messages mean.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from shared.ledger.connection import translate

_PING_AFTER_SECONDS = 1.0
_SILENT_PINGS_ALLOWED = 3
_RECONNECT_SECONDS = 0.1


class _Silent(OSError):
    """Pings are not answered: the connection is dead whatever the kernel believes."""


class Subscription:
    """An async context manager, entered once Redis has confirmed it; one task iterates over it.

    Leaving it ends an iteration that is waiting in another task.
    """

    def __init__(self, open_client: Callable[[], Redis], channel: str) -> None:
        self._open_client = open_client
        self._channel = channel
        self._pubsub: PubSub | None = None
        self._client: Redis | None = None
        self._closed = False
        self._silent_pings = 0

    async def __aenter__(self) -> Self:
        self._client = self._open_client()
        try:
            self._pubsub = await translate(self._subscribe)
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        await self._drop()
        if self._client is not None:
            await self._client.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | None:
        """The next message; None once after each new connection."""
        while not self._closed:
            if self._pubsub is None:
                if await self._reconnect():
                    return None
                continue
            try:
                message = await self._read(self._pubsub)
            except (RedisError, OSError, RuntimeError):
                # RuntimeError: redis-py's words for a subscription that was closed while it was read.
                await self._drop()
                continue
            if message is not None:
                return message
        raise StopAsyncIteration

    async def _read(self, pubsub: PubSub) -> bytes | None:
        message = await pubsub.get_message(timeout=_PING_AFTER_SECONDS)
        if message is None:
            self._silent_pings += 1
            if self._silent_pings > _SILENT_PINGS_ALLOWED:
                raise _Silent
            await pubsub.ping()
            return None
        self._silent_pings = 0
        return message["data"] if message["type"] == "message" else None

    async def _subscribe(self) -> PubSub:
        assert self._client is not None
        pubsub = self._client.pubsub()
        try:
            await pubsub.subscribe(self._channel)
            for _ in range(_SILENT_PINGS_ALLOWED):
                if await pubsub.get_message(timeout=_PING_AFTER_SECONDS) is not None:
                    return pubsub
            raise _Silent
        except BaseException:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            raise

    async def _reconnect(self) -> bool:
        try:
            pubsub = await self._subscribe()
        except (RedisError, OSError):
            await asyncio.sleep(_RECONNECT_SECONDS)
            return False
        self._silent_pings = 0
        if self._closed:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            return False
        self._pubsub = pubsub
        return True

    async def _drop(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
