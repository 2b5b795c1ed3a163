"""A pub/sub channel as an async iterator that survives lost connections and says when it did.

Pub/sub promises nothing: whoever listens reads the log again after a `None` (a connection was lost) and every
silent second (DELIVERY line 12). redis-py's own `PubSub` reconnects without a word, which would hide the loss, so
this speaks over a bare connection. It does not know what the messages mean.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.ledger.connection import Connections, translate
from shared.ledger.reply_stream import ReplyStream

_PING_SECONDS = 1.0
_SILENCE_SECONDS = 3.0
_RECONNECT_SECONDS = 0.1
_CONFIRM_SECONDS = 3.0


class Subscription:
    """An async context manager, entered once Redis has confirmed it; one task iterates over it.

    It pings every second; a connection that is silent for three is lost, whatever the kernel believes. Leaving it
    ends an iteration that is waiting in another task.
    """

    def __init__(self, connections: Connections, channel: str) -> None:
        self._connections = connections
        self._channel = channel
        self._stream: ReplyStream | None = None
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._confirmed: asyncio.Future[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await self._subscribe()
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
        self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | None:
        """The next message; None once after each new connection."""
        while not self._closed:
            if self._messages:
                return self._messages.popleft()
            if self._stream is None:
                if await self._reconnect():
                    return None
                continue
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration

    async def _subscribe(self) -> None:
        self._confirmed = asyncio.get_running_loop().create_future()
        connection = self._connections.new()
        self._stream = await ReplyStream.open(connection, on_replies=self._heard, on_lost=self._lost)
        try:
            self._stream.write(b"".join(connection.pack_command("SUBSCRIBE", self._channel)))
            async with asyncio.timeout(_CONFIRM_SECONDS):
                await self._confirmed
        except BaseException:
            self._drop()
            raise

    def _heard(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._lost(reply)
            elif reply[0] == b"message":
                self._messages.append(reply[2])
            elif reply[0] == b"subscribe" and self._confirmed is not None and not self._confirmed.done():
                self._confirmed.set_result(None)
        self._news.set()

    def _lost(self, error: Exception) -> None:
        """What came before is still handed out; then the iteration connects again and says so."""
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(error)
        self._drop()

    async def _reconnect(self) -> bool:
        try:
            await self._subscribe()
        except (RedisError, OSError):
            await asyncio.sleep(_RECONNECT_SECONDS)
            return False
        if self._closed:
            self._drop()
        return not self._closed

    async def _ping(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PING_SECONDS)
            stream = self._stream
            if stream is None:
                continue
            if loop.time() - stream.last_heard_at > _SILENCE_SECONDS:
                stream.lose(RedisConnectionError("the channel's connection is silent"))
            else:
                stream.write(b"*1\r\n$4\r\nPING\r\n")

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._news.set()
