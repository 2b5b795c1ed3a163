"""A pub/sub channel as an async iterator that survives lost connections and says when it did.

Pub/sub promises nothing: whoever listens reads the log again after a `None` (a connection was lost) and every
silent second (DELIVERY line 12). redis-py's own `PubSub` reconnects without a word, which would hide the loss, so
this speaks over a bare connection. It does not know what the messages mean.
"""

import asyncio
from types import TracebackType
from typing import Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from shared.ledger.connection import Connections, translate

_PING_SECONDS = 1.0
_RECONNECT_SECONDS = 0.1


class Subscription:
    """An async context manager, entered once Redis has confirmed it; one task iterates over it.

    It pings every second; a connection that is silent for its socket timeout is lost, whatever the kernel believes.
    Leaving it ends an iteration that is waiting in another task.
    """

    def __init__(self, connections: Connections, channel: str) -> None:
        self._connections = connections
        self._channel = channel
        self._connection: AbstractConnection | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            self._connection = await self._subscribe()
        except (RedisError, OSError) as error:
            raise translate(error) from error
        self._pinging = asyncio.create_task(self._ping())
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait({self._pinging})
        await self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | None:
        """The next message; None once after each new connection."""
        while not self._closed:
            if self._connection is None:
                if await self._reconnect():
                    return None
                continue
            try:
                reply = await self._connection.read_response()
            except (RedisError, OSError, RuntimeError):
                # RuntimeError: asyncio's word for a stream that was closed while it was read.
                await self._drop()
                continue
            if reply[0] == b"message":
                data: bytes = reply[2]
                return data
        raise StopAsyncIteration

    async def _subscribe(self) -> AbstractConnection:
        connection = self._connections.new()
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", self._channel)
            await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _reconnect(self) -> bool:
        try:
            connection = await self._subscribe()
        except (RedisError, OSError):
            await asyncio.sleep(_RECONNECT_SECONDS)
            return False
        self._connection = connection
        if self._closed:
            await self._drop()
        return not self._closed

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_SECONDS)
            connection = self._connection
            if connection is None:
                continue
            try:
                await connection.send_command("PING", check_health=False)
            except (RedisError, OSError):
                continue  # the reader finds out by itself

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
